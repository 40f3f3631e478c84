//! Integer geometry of tiles. (stub)
