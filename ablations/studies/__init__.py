"""One file is one question; the file's name is the study's name, the first paragraph of its docstring the question."""
