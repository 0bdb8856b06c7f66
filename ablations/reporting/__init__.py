"""Turn numbers into words and pictures: the report's sentences, tables and figures."""
