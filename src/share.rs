//! Work that is done to many pieces, each on its own, in several threads.

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::thread::{self, ScopedJoinHandle};

/// Samples of a piece that is worth a thread's while.
pub(crate) const PIECE: usize = 1 << 17;

/// Runs `work` in so many threads, the calling one among them; each asks for one piece after the other until there is
/// none.
pub(crate) fn share<T: Send>(
    pieces: impl ExactSizeIterator<Item = T> + Send,
    threads: usize,
    work: impl Fn(&mut dyn FnMut() -> Option<T>) + Sync,
) {
    let threads = threads.min(pieces.len());
    let pieces = Mutex::new(pieces);
    let work_off = || work(&mut || pieces.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next());
    thread::scope(|scope| {
        // Where the system gives no thread, those that there are do it all.
        let helpers = (1..threads).map_while(|_| thread::Builder::new().spawn_scoped(scope, work_off).ok());
        let helpers: Vec<_> = helpers.collect();
        work_off();
        join(helpers);
    });
}

/// Waits until the threads are gone, where the end of a scope waits for the end of their work alone: a host may unload the
/// library right after.
pub(crate) fn join(threads: Vec<ScopedJoinHandle<()>>) {
    let panics: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().err()).collect();
    if let Some(panic) = panics.into_iter().next() {
        resume_unwind(panic);
    }
}
