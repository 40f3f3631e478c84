//! Threads that do the same list of tasks together: every task is cut into items, whoever is free takes the next one,
//! and the next task begins when all items are done.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What the threads of a team share.
struct Shared {
    /// 0 until all are there.
    threads: AtomicUsize,
    /// Items taken of a task, in turn for every third task: two tasks later nobody looks at it any more.
    taken: [AtomicUsize; 3],
    /// Threads that wait, and how often all have met.
    waiting: AtomicUsize,
    meetings: AtomicUsize,
}

/// One thread's place in its team.
pub(super) struct Team<'a> {
    shared: &'a Shared,
    index: usize,
}

/// Turns of waiting before a thread lets others have its processor: some microseconds.
const SPINS: usize = 4000;

impl Team<'_> {
    /// Runs `work` in so many threads, one of them this one, or in as many as can be had.
    pub(super) fn run(threads: usize, work: impl Fn(&Team) + Sync) {
        let shared = Shared {
            threads: AtomicUsize::new(0),
            taken: Default::default(),
            waiting: AtomicUsize::new(0),
            meetings: AtomicUsize::new(0),
        };
        let (shared, work) = (&shared, &work);
        if threads == 1 {
            shared.threads.store(1, Ordering::Relaxed);
            return work(&Team { shared, index: 0 });
        }
        std::thread::scope(|scope| {
            let mut there = 1;
            while there < threads {
                let index = there;
                let member = move || {
                    shared.wait_until(|| shared.threads.load(Ordering::Acquire) > 0);
                    work(&Team { shared, index });
                };
                if std::thread::Builder::new().spawn_scoped(scope, member).is_err() {
                    break;
                }
                there += 1;
            }
            shared.threads.store(there, Ordering::Release);
            work(&Team { shared, index: 0 });
        });
    }

    /// Which thread this is, from 0.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Does items of task `number`, until all are done by somebody. All threads go through the same tasks in the same
    /// order, numbered from 0.
    pub(super) fn share(&self, number: usize, items: usize, work: impl Fn(usize)) {
        if self.shared.threads.load(Ordering::Relaxed) == 1 {
            return (0..items).for_each(work);
        }
        let taken = &self.shared.taken[number % 3];
        loop {
            let item = taken.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            work(item);
        }
        self.shared.taken[(number + 1) % 3].store(0, Ordering::Relaxed);
        self.meet();
    }

    /// Waits for all threads; what they have written before is then visible to all.
    fn meet(&self) {
        let shared = self.shared;
        let meeting = shared.meetings.load(Ordering::Acquire);
        if shared.waiting.fetch_add(1, Ordering::AcqRel) + 1 == shared.threads.load(Ordering::Relaxed) {
            shared.waiting.store(0, Ordering::Relaxed);
            shared.meetings.store(meeting + 1, Ordering::Release);
            return;
        }
        shared.wait_until(|| shared.meetings.load(Ordering::Acquire) != meeting);
    }
}

impl Shared {
    fn wait_until(&self, done: impl Fn() -> bool) {
        let mut spins = 0;
        while !done() {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_before_the_next_task() {
        for threads in [1, 2, 3, 8] {
            let done: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            Team::run(threads, |team| {
                for number in 0..200 {
                    team.share(number, number % 50, |item| {
                        done[item].fetch_add(1, Ordering::Relaxed);
                    });
                    let expected = |item: usize| (0..=number).filter(|number| item < number % 50).count();
                    // Others may be in the next task already, which adds at most one.
                    for (item, done) in done.iter().enumerate() {
                        let found = done.load(Ordering::Relaxed);
                        assert!((expected(item)..=expected(item) + 1).contains(&found), "{threads} threads, {number}");
                    }
                }
            });
        }
    }
}
