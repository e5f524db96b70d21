"""charlm: a character language model, trained as a tracked, exactly reproducible experiment."""
