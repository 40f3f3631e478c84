//! Weighted sum of tiles. (stub)
