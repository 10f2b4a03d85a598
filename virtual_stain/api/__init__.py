"""What `import virtual_stain` offers: plain arguments in, results that plot themselves out.

Each function calls the workflow that its command calls, so a script and the command line give the same numbers.
"""
