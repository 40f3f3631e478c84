//! Built-in models. (stub)
