//! Threads beside the calling one, and work that is done to many pieces, each on its own, by all of them.
#![allow(unsafe_code)] // threads that borrow and whose processor may be chosen, which `std` has not together

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

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
    beside(threads.saturating_sub(1), work_off, work_off);
}

/// What a thread panics with that cannot go on because another one has panicked: nobody's reason.
pub(crate) struct Bystander;

/// Runs `own` in this thread and `helper` in so many others, or in as many as the system gives. When it returns the others
/// are gone, where the end of a `std::thread::scope` waits for the end of their work alone: a host may unload the library
/// right after.
///
/// # Panics
/// Where one of them does, for the same reason.
pub(crate) fn beside(helpers: usize, helper: impl Fn() + Sync, own: impl FnOnce()) {
    let placed = AtomicBool::new(false);
    let helper = || {
        let done = catch_unwind(AssertUnwindSafe(&helper));
        while !placed.load(Ordering::Acquire) {
            thread::yield_now();
        }
        done.unwrap_or_else(|panic| resume_unwind(panic));
    };
    let mut threads = Vec::with_capacity(helpers);
    let done = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..helpers {
            // SAFETY: what is borrowed lives until this function returns, and before that, whatever panics, all are joined.
            let Ok(thread) = (unsafe { thread::Builder::new().spawn_unchecked(helper) }) else { break };
            start_elsewhere(&thread);
            threads.push(thread);
        }
        placed.store(true, Ordering::Release);
        own();
    }));
    placed.store(true, Ordering::Release);
    let mut panics: Vec<_> = threads.into_iter().map(JoinHandle::join).filter_map(Result::err).collect();
    panics.extend(done.err());
    let reason = panics.iter().position(|panic| !panic.is::<Bystander>()).unwrap_or(0);
    if reason < panics.len() {
        resume_unwind(panics.swap_remove(reason));
    }
}

/// Moves a thread that was just started away from this one's processor. Linux often puts it there where the others have
/// been idle for a while, and there it waits until this one is interrupted, which takes milliseconds. The thread must be
/// alive: one that has ended counts as the one that asks.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn start_elsewhere<T>(started: &JoinHandle<T>) {
    use std::os::unix::thread::JoinHandleExt;
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set is an array of numbers, that of 0 the empty one; the calls read or write one of the size given, and
    // the thread is alive. A refusal leaves it where it is.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let Ok(here) = usize::try_from(libc::sched_getcpu()) else { return };
        if here >= 8 * size || libc::sched_getaffinity(0, size, &raw mut allowed) != 0 {
            return;
        }
        let mut others = allowed;
        libc::CPU_CLR(here, &mut others);
        if libc::pthread_setaffinity_np(started.as_pthread_t(), size, &raw const others) == 0 {
            libc::pthread_setaffinity_np(started.as_pthread_t(), size, &raw const allowed);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn start_elsewhere<T>(_: &JoinHandle<T>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn helpers_are_gone_when_one_panics() {
        for who in 0..3 {
            let (numbers, ended) = (AtomicUsize::new(1), AtomicUsize::new(0));
            let end = |number: usize| {
                ended.fetch_add(1, Ordering::Relaxed);
                assert_ne!(number, who, "as expected");
            };
            let helper = || end(numbers.fetch_add(1, Ordering::Relaxed));
            let panic = catch_unwind(AssertUnwindSafe(|| beside(3, helper, || end(0)))).expect_err("a panic");
            assert!(panic.downcast_ref::<String>().is_some_and(|reason| reason.contains("as expected")), "{who}");
            assert_eq!(ended.into_inner(), 4, "{who}");
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn helpers_may_use_every_processor_that_the_caller_may() {
        let allowed = || {
            // SAFETY: as above. Where there are more than 1024 processors the set stays empty.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
                libc::CPU_COUNT(&set)
            }
        };
        let expected = allowed();
        for _ in 0..100 {
            // Before a helper has been moved away and let free again, it has fewer.
            let (started, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let helper = || {
                while started.load(Ordering::Acquire) == 0 {
                    thread::yield_now();
                }
                seen.fetch_max(allowed() as usize, Ordering::Relaxed);
            };
            beside(1, helper, || started.store(1, Ordering::Release));
            assert_eq!(seen.into_inner(), expected as usize);
        }
    }
}
