//! Memory for samples: from the start of a cache line on, so that no vector lies in two. It lies on large pages, where
//! there is much of it: a network goes through more memory than a processor knows ordinary pages of.

use crate::zeros::zeros;

/// Samples that begin with a cache line.
#[derive(Default)]
pub(super) struct Samples {
    /// With a line more than there are samples.
    memory: Vec<f32>,
    /// First of them.
    start: usize,
}

/// Samples of a cache line.
pub(super) const LINE: usize = 16;

impl Samples {
    /// # Panics
    /// Where the system has not so much memory.
    pub(super) fn zeros(len: usize) -> Self {
        let memory: Vec<f32> = zeros(len + LINE).expect("memory for a network");
        let start = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { memory, start }
    }

    pub(super) fn len(&self) -> usize {
        self.memory.len().saturating_sub(LINE)
    }

    pub(super) fn clear(&mut self) {
        self.memory.fill(0.0);
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.memory.as_ptr().wrapping_add(self.start)
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.memory.as_mut_ptr().wrapping_add(self.start)
    }

    fn as_slice(&self) -> &[f32] {
        &self.memory[self.start..][..self.len()]
    }
}

impl From<&[f32]> for Samples {
    fn from(samples: &[f32]) -> Self {
        let mut result = Self::zeros(samples.len());
        result.memory[result.start..][..samples.len()].copy_from_slice(samples);
        result
    }
}

impl PartialEq for Samples {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}
