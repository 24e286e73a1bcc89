import sys
def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv + sys.argv[1:]
    from .training import parse_options, train
    train(parse_options(argv[1:]))
if __name__ == "__main__": main()
