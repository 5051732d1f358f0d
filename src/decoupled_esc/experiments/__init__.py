"""The steps of this book: what it reads, trains, samples and scores, a module for each family; and `book`, the table that names them all."""
