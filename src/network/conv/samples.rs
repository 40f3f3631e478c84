//! Memory for samples: from the start of a cache line on, so that no vector lies in two. It lies on large pages, where
//! there is much of it: a network goes through more memory than a processor knows ordinary pages of.

use crate::zeros::{LARGE_PAGE, zeros};

/// Samples that begin with a cache line.
#[derive(Default)]
pub(super) struct Samples {
    /// With more than there are samples, of which none is touched.
    memory: Vec<f32>,
    /// First of them.
    start: usize,
    len: usize,
}

/// Samples of a cache line.
pub(super) const LINE: usize = 16;

impl Samples {
    /// # Panics
    /// Where the system has not so much memory.
    pub(super) fn zeros(len: usize) -> Self {
        Self::aligned(len, unit(len))
    }

    /// Bytes that so many zeros take.
    pub(super) fn bytes(len: usize) -> u64 {
        4 * room(len, unit(len)) as u64
    }

    fn aligned(len: usize, unit: usize) -> Self {
        let memory: Vec<f32> = zeros(room(len, unit)).expect("memory for a network");
        let start = memory.as_ptr().align_offset(unit * size_of::<f32>()).min(unit);
        Self { memory, start, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn clear(&mut self) {
        self.as_mut_slice().fill(0.0);
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.memory.as_ptr().wrapping_add(self.start)
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.memory.as_mut_ptr().wrapping_add(self.start)
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..][..self.len]
    }

    fn as_slice(&self) -> &[f32] {
        &self.memory[self.start..][..self.len]
    }
}

/// What zeros begin with a multiple of: all of many lie on large pages, also those before the first whole one and after
/// the last.
fn unit(len: usize) -> usize {
    const LARGE: usize = LARGE_PAGE / size_of::<f32>();
    if len < 2 * LARGE { LINE } else { LARGE }
}

/// Samples among which so many begin with a multiple of `unit`, and end before one.
fn room(len: usize, unit: usize) -> usize {
    len.next_multiple_of(unit) + unit
}

impl From<&[f32]> for Samples {
    fn from(samples: &[f32]) -> Self {
        let mut result = Self::aligned(samples.len(), LINE);
        result.as_mut_slice().copy_from_slice(samples);
        result
    }
}

impl PartialEq for Samples {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}
