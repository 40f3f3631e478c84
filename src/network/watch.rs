//! What runs of the network tell the outside while they run, and the other way round.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far runs are, which may be several at once, and whether they are to stop.
#[derive(Debug, Default)]
pub struct Watch {
    stop: AtomicBool,
    done: AtomicU64,
}

impl Watch {
    /// What a run of one tile counts.
    pub const TILE: u64 = 100;

    /// Lets the runs end as soon as they can, without a result.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Hundredths of a tile that are done, of all runs together.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Part number `part`, from 0, of one run's `parts` is done.
    pub(super) fn reached(&self, part: usize, parts: usize) {
        let done = |parts_done: usize| Self::TILE * parts_done as u64 / parts as u64;
        let more = done(part + 1) - done(part);
        if more > 0 {
            self.done.fetch_add(more, Ordering::Relaxed);
        }
    }
}
