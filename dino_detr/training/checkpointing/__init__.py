"""
How a run survives. It has its folder to itself (`lock`, `output_dir`), writes checkpoints that are whole or not there
(`files`) and hold all that it goes on with (`state`), and stops in good order when it is told to (`preemption`).
"""
