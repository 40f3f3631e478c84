//! Threads that do the same list of tasks together. A task is cut into items: rows, each in pieces. Every thread has its
//! part of the pieces, the same part of the columns in every task, so that it reads what it has written before and what
//! lies in its own caches; who has finished its part takes from those of others. The next task begins when all items are
//! done.

use crate::share::join;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the threads of a team share.
struct Shared<'a> {
    /// 0 until all are there.
    threads: AtomicUsize,
    parts: &'a [Part],
    /// Threads that wait, and how often all have met.
    waiting: AtomicUsize,
    meetings: AtomicUsize,
}

/// Items taken of a thread's part of a task, in turn for every third task: two tasks later nobody looks at it any more.
/// Cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Part {
    taken: [AtomicUsize; 3],
}

/// One thread's place in its team.
pub(super) struct Team<'a> {
    shared: &'a Shared<'a>,
    index: usize,
}

/// Turns of waiting before a thread lets others have its processor: some microseconds. They are without the hint that
/// one waits, as virtual machines take the processor from who gives it some thousand times.
const SPINS: usize = 20_000;

impl Team<'_> {
    /// Runs `work` in so many threads, one of them this one, or in as many as can be had.
    pub(super) fn run(threads: usize, work: impl Fn(&Team) + Sync) {
        let team = |parts| Shared {
            threads: AtomicUsize::new(0),
            parts,
            waiting: AtomicUsize::new(0),
            meetings: AtomicUsize::new(0),
        };
        if threads == 1 {
            let shared = team(&[]);
            shared.threads.store(1, Ordering::Relaxed);
            return work(&Team { shared: &shared, index: 0 });
        }
        let parts: Vec<Part> = (0..threads).map(|_| Part::default()).collect();
        let (shared, work) = (&team(&parts), &work);
        std::thread::scope(|scope| {
            let mut members = vec![];
            while members.len() + 1 < threads {
                let index = members.len() + 1;
                let member = move || {
                    shared.wait_until(|| shared.threads.load(Ordering::Acquire) > 0);
                    work(&Team { shared, index });
                };
                let Ok(member) = std::thread::Builder::new().spawn_scoped(scope, member) else { break };
                members.push(member);
            }
            shared.threads.store(1 + members.len(), Ordering::Release);
            work(&Team { shared, index: 0 });
            join(members);
        });
    }

    /// Which thread this is, from 0.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Does items of task `number`, given by row and piece, until all are done by somebody. All threads go through the
    /// same tasks in the same order, numbered from 0.
    pub(super) fn share(&self, number: usize, [rows, pieces]: [usize; 2], work: impl Fn(usize, usize)) {
        let threads = self.shared.threads.load(Ordering::Relaxed);
        if threads == 1 {
            return (0..rows).for_each(|row| (0..pieces).for_each(|piece| work(row, piece)));
        }
        for other in 0..threads {
            let index = (self.index + other) % threads;
            let (start, end) = (index * pieces / threads, (index + 1) * pieces / threads);
            let taken = &self.shared.parts[index].taken[number % 3];
            loop {
                let item = taken.fetch_add(1, Ordering::Relaxed);
                if item >= rows * (end - start) {
                    break;
                }
                work(item / (end - start), start + item % (end - start));
            }
        }
        self.shared.parts[self.index].taken[(number + 1) % 3].store(0, Ordering::Relaxed);
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

impl Shared<'_> {
    fn wait_until(&self, done: impl Fn() -> bool) {
        let mut spins = 0;
        while !done() {
            spins += 1;
            if spins > SPINS {
                std::thread::yield_now();
            }
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
                    team.share(number, [number % 10, 5], |row, piece| {
                        done[5 * row + piece].fetch_add(1, Ordering::Relaxed);
                    });
                    let expected = |item: usize| (0..=number).filter(|number| item < 5 * (number % 10)).count();
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
