"""What lies in a run folder: the names of its files, and reading them. (`training` writes them.)"""
