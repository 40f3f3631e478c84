//! Phantoms and defects. (stub)
