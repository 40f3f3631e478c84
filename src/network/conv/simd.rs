//! The arithmetic of one output row of a convolution, in vectors along X: a register tile of M output channels by N
//! vectors of pixels is kept while all input channels and taps are added to it, so that each load feeds M or N
//! multiplications. One body of code, compiled for AVX-512, for AVX2 with FMA and portably; which one runs is chosen
//! when the program runs. A pixel's sum is formed in the same order wherever it lies in a tile, so results do not
//! depend on how an image is cut.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this program knows, the best last.
    pub(super) const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
    ];

    /// Whether this processor has them.
    pub(super) fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
        }
    }

    /// The best that this processor has.
    pub(super) fn best() -> Self {
        Self::ALL.iter().copied().rfind(|isa| isa.is_here()).unwrap_or(Self::Portable)
    }

    /// Output channels that share a register tile, where `left` are still to do.
    pub(super) fn block(self, left: usize) -> usize {
        let most = match self {
            Self::Portable => Portable::CHANNELS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::CHANNELS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::CHANNELS,
        };
        [8, 4, 2, 1].into_iter().find(|&block| block <= most && block <= left).unwrap_or(1)
    }
}

/// Most samples in a vector of any [`Isa`].
pub(super) const MAX_LANES: usize = 16;

/// One row of all output channels.
pub(super) struct Row<'a> {
    pub isa: Isa,
    /// The input rows under the kernel, from the top, padded: of each, `channels` times `pitch` samples.
    pub rows: &'a [&'a [f32]],
    pub channels: usize,
    pub pitch: usize,
    pub kernel_width: usize,
    /// In blocks of [`Isa::block`] output channels; within a block in the order input channel, kernel row, kernel
    /// column, output channel.
    pub weights: &'a [f32],
    /// One of each output channel.
    pub bias: &'a [f32],
    /// Negative sums become 0 (NaN stays NaN).
    pub relu: bool,
    /// Output pixels.
    pub columns: usize,
    /// Samples from one output channel to the next.
    pub plane: usize,
}

impl Row<'_> {
    /// Samples from one input channel to the next that a row of so many columns needs: reading goes on to the end of
    /// the last vector.
    pub(super) fn pitch(columns: usize, kernel_width: usize) -> usize {
        columns.next_multiple_of(MAX_LANES) + (kernel_width - 1).next_multiple_of(MAX_LANES)
    }

    /// Computes the row; channel c goes to `out[c * plane..][..columns]`.
    pub(super) fn compute(&self, out: &mut [f32]) {
        let taps = self.channels * self.rows.len() * self.kernel_width;
        assert!(self.isa.is_here(), "instructions that this processor lacks");
        assert!(self.rows.iter().all(|row| row.len() >= self.channels * self.pitch), "rows too short");
        assert!(self.pitch >= Self::pitch(self.columns, self.kernel_width), "pitch too small");
        assert!(self.weights.len() == taps * self.bias.len(), "weights do not fit");
        if self.bias.is_empty() || self.columns == 0 {
            return;
        }
        assert!(out.len() >= (self.bias.len() - 1) * self.plane + self.columns, "result too short");
        // SAFETY: the lengths were checked just now, and the instructions are there.
        unsafe {
            match self.isa {
                Isa::Portable => row::<Portable>(self, out.as_mut_ptr()),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => row_avx2(self, out.as_mut_ptr()),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => row_avx512(self, out.as_mut_ptr()),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn row_avx2(work: &Row, out: *mut f32) {
    // SAFETY: as the caller promises.
    unsafe { row::<Avx2>(work, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn row_avx512(work: &Row, out: *mut f32) {
    // SAFETY: as the caller promises.
    unsafe { row::<Avx512>(work, out) }
}

/// All output channels, block by block.
///
/// # Safety
/// The checks of [`Row::compute`] hold.
#[inline(always)]
unsafe fn row<V: Vector>(work: &Row, out: *mut f32) {
    let taps = work.channels * work.rows.len() * work.kernel_width;
    let mut channel = 0;
    while channel < work.bias.len() {
        let block = work.isa.block(work.bias.len() - channel);
        // SAFETY: a block ends at most at the last channel, so its weights, biases and results are there.
        unsafe {
            let (weights, bias) = (work.weights.as_ptr().add(channel * taps), work.bias.as_ptr().add(channel));
            let out = out.add(channel * work.plane);
            match block {
                8 if V::CHANNELS >= 8 => channels::<V, 8>(work, weights, bias, out),
                4 => channels::<V, 4>(work, weights, bias, out),
                2 => channels::<V, 2>(work, weights, bias, out),
                _ => channels::<V, 1>(work, weights, bias, out),
            }
        }
        channel += block;
    }
}

/// M output channels, tile by tile.
///
/// # Safety
/// The checks of [`Row::compute`] hold, and the pointers are to M channels.
#[inline(always)]
unsafe fn channels<V: Vector, const M: usize>(work: &Row, weights: *const f32, bias: *const f32, out: *mut f32) {
    let mut x = 0;
    while x < work.columns {
        let left = (work.columns - x).div_ceil(V::LANES);
        let vectors = if left == 4 { 2 } else { left.min(3) };
        // SAFETY: `x` is a multiple of the vector's length below `columns`, and the vectors end at most at `columns`
        // rounded up, within the pitch.
        unsafe {
            match vectors {
                3 => tile::<V, M, 3>(work, weights, bias, out, x),
                2 => tile::<V, M, 2>(work, weights, bias, out, x),
                _ => tile::<V, M, 1>(work, weights, bias, out, x),
            }
        }
        x += vectors * V::LANES;
    }
}

/// M output channels by N vectors, from column `x` on.
///
/// # Safety
/// As for [`channels`]; N vectors from `x` end at most at `columns` rounded up to a multiple of a vector's length.
#[expect(clippy::needless_range_loop, reason = "loops over constants alone are unrolled into registers")]
#[inline(always)]
unsafe fn tile<V: Vector, const M: usize, const N: usize>(
    work: &Row,
    weights: *const f32,
    bias: *const f32,
    out: *mut f32,
    x: usize,
) {
    // SAFETY: see above; the inputs of a vector end kernel_width − 1 samples after it, within the pitch.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; M];
        for m in 0..M {
            sums[m] = [V::splat(*bias.add(m)); N];
        }
        let mut weight = weights;
        for channel in 0..work.channels {
            for row in work.rows {
                let samples = row.as_ptr().add(channel * work.pitch + x);
                for k in 0..work.kernel_width {
                    let mut inputs = [V::splat(0.0); N];
                    for n in 0..N {
                        inputs[n] = V::load(samples.add(k + n * V::LANES));
                    }
                    for m in 0..M {
                        let factor = V::splat(*weight.add(m));
                        for n in 0..N {
                            sums[m][n] = inputs[n].times_plus(factor, sums[m][n]);
                        }
                    }
                    weight = weight.add(M);
                }
            }
        }
        // Loops short enough to be unrolled, so that the sums stay in registers.
        if work.relu {
            for m in 0..M {
                for n in 0..N {
                    sums[m][n] = sums[m][n].relu();
                }
            }
        }
        let columns = work.columns - x;
        if columns >= N * V::LANES {
            for m in 0..M {
                for n in 0..N {
                    sums[m][n].store(out.add(m * work.plane + x + n * V::LANES));
                }
            }
        } else {
            let mut whole = [[0.0_f32; 3 * MAX_LANES]; M];
            for m in 0..M {
                for n in 0..N {
                    sums[m][n].store(whole[m].as_mut_ptr().add(n * V::LANES));
                }
            }
            for (m, whole) in whole.iter().enumerate() {
                std::ptr::copy_nonoverlapping(whole.as_ptr(), out.add(m * work.plane + x), columns);
            }
        }
    }
}

/// Several samples in a row.
///
/// # Safety
/// The instructions must be there; pointers are to `LANES` samples, aligned as f32.
trait Vector: Copy {
    const LANES: usize;
    /// Output channels of the largest tile that fits into the registers with three vectors of each.
    const CHANNELS: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self;
    unsafe fn relu(self) -> Self;
}

/// Four samples, as every 64-bit processor's smallest vectors have.
#[derive(Clone, Copy)]
struct Portable([f32; 4]);

impl Vector for Portable {
    const LANES: usize = 4;
    const CHANNELS: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller points to four samples; the alignment of f32 is enough.
        Self(unsafe { from.cast::<[f32; 4]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as for `load`.
        unsafe { to.cast::<[f32; 4]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (self.0, factor.0, sum.0);
        Self([a * e + i, b * f + j, c * g + k, d * h + l])
    }

    #[inline(always)]
    unsafe fn relu(self) -> Self {
        Self(self.0.map(|x| if x < 0.0 { 0.0 } else { x }))
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2(__m256);

// The reason of all its functions: the caller has AVX2 and FMA, and valid pointers.
#[cfg(target_arch = "x86_64")]
impl Vector for Avx2 {
    const LANES: usize = 8;
    const CHANNELS: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, sum.0) })
    }

    #[inline(always)]
    unsafe fn relu(self) -> Self {
        // Of a NaN and a number, `max` gives the second.
        // SAFETY: see above.
        Self(unsafe { _mm256_max_ps(_mm256_setzero_ps(), self.0) })
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx512(__m512);

// The reason of all its functions: the caller has AVX-512F, and valid pointers.
#[cfg(target_arch = "x86_64")]
impl Vector for Avx512 {
    const LANES: usize = 16;
    const CHANNELS: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, sum.0) })
    }

    #[inline(always)]
    unsafe fn relu(self) -> Self {
        // Of a NaN and a number, `max` gives the second.
        // SAFETY: see above.
        Self(unsafe { _mm512_max_ps(_mm512_setzero_ps(), self.0) })
    }
}
