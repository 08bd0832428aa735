"""How passages are found: words, vectors, links, and how well."""
