//! Vectors of f32, one trait for all sets of instructions: AVX-512, AVX2 with FMA, NEON, and a portable one that any
//! processor runs. Kernels are written once, generic over [`Vector`]; [`Isa`] names the set that a program was packed
//! for and is chosen when the program runs. A vector holds as many channels of one pixel as it has lanes.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::float32x4x2_t;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this program knows, the best last.
    pub(super) const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
    ];

    /// Whether this processor has them.
    pub(super) fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
        }
    }

    /// The best that this processor has, or the one that the variable `MDR_ISA` names (for tests and benchmarks).
    pub(super) fn best() -> Self {
        let named = std::env::var("MDR_ISA").ok();
        let wanted = |isa: &Self| named.as_ref().is_none_or(|name| format!("{isa:?}").eq_ignore_ascii_case(name));
        let here = || Self::ALL.iter().copied().filter(|isa| isa.is_here());
        here().rfind(wanted).or_else(|| here().next_back()).unwrap_or(Self::Portable)
    }

    /// Channels in a vector.
    pub(super) fn lanes(self) -> usize {
        self.sizes().0
    }

    /// Pixels and vectors of channels of the largest tile of sums that stays in the registers.
    pub(super) fn register_tile(self) -> (usize, usize) {
        let (_, pixels, vectors) = self.sizes();
        (pixels, vectors)
    }

    fn sizes(self) -> (usize, usize, usize) {
        fn of<V: Vector>() -> (usize, usize, usize) {
            (V::LANES, V::PIXELS, VECTORS)
        }
        match self {
            Self::Portable => of::<Portable>(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => of::<Neon>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => of::<Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => of::<Avx512>(),
        }
    }
}

/// Vectors of output channels that share a register tile: each input sample that is spread over a vector feeds so many
/// multiplications.
pub(super) const VECTORS: usize = 2;

/// Several samples in a row.
///
/// # Safety
/// The instructions must be there; pointers are to `LANES` samples, aligned as f32.
pub(super) trait Vector: Copy {
    const LANES: usize;
    /// Pixels of a register tile: with [`VECTORS`] sums of each, the vectors of weights and one input fill the
    /// registers.
    const PIXELS: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn minus(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self;
    /// `sum - self * factor`.
    unsafe fn subtracted_times(self, factor: Self, sum: Self) -> Self;
    /// The larger of each two; where `self` is NaN, NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of each two; where `self` is NaN, NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> f32;
}

/// Eight samples, which compilers split over whatever vectors a processor has.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(mut self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        for i in 0..8 {
            self.0[i] = f(self.0[i], other.0[i]);
        }
        self
    }
}

impl Vector for Portable {
    const LANES: usize = 8;
    const PIXELS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller points to eight samples; the alignment of f32 is enough.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as for `load`.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(sum, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn subtracted_times(self, factor: Self, sum: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(sum, |a, b| b - a)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { b } else { a })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { b } else { a })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

/// Implements [`Vector`] by intrinsics of the same names; the reason why each call is sound is the trait's contract.
macro_rules! vector {
    ($name:ident, $lanes:literal, $pixels:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident,
     $fma:ident, $fnma:ident, $max:ident, $min:ident, $sum:ident) => {
        impl Vector for $name {
            const LANES: usize = $lanes;
            const PIXELS: usize = $pixels;

            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $splat(value) })
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the instructions are there, and so are the samples.
                Self(unsafe { $load(from) })
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the instructions are there, and so is the room.
                unsafe { $store(to, self.0) }
            }

            #[inline(always)]
            unsafe fn plus(self, other: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $add(self.0, other.0) })
            }

            #[inline(always)]
            unsafe fn minus(self, other: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $sub(self.0, other.0) })
            }

            #[inline(always)]
            unsafe fn times_plus(self, factor: Self, sum: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $fma(self.0, factor.0, sum.0) })
            }

            #[inline(always)]
            unsafe fn subtracted_times(self, factor: Self, sum: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $fnma(self.0, factor.0, sum.0) })
            }

            // Of a NaN and a number, Intel's minimum and maximum give the second; ARM's give NaN.
            #[inline(always)]
            unsafe fn max(self, other: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $max(other.0, self.0) })
            }

            #[inline(always)]
            unsafe fn min(self, other: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $min(other.0, self.0) })
            }

            #[inline(always)]
            unsafe fn sum(self) -> f32 {
                // SAFETY: the instructions are there.
                unsafe { $sum(self.0) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

#[cfg(target_arch = "x86_64")]
vector!(
    Avx2,
    8,
    6,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_fmadd_ps,
    _mm256_fnmadd_ps,
    _mm256_max_ps,
    _mm256_min_ps,
    sum_of_8
);

/// AVX2 has no instruction for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn sum_of_8(samples: __m256) -> f32 {
    // SAFETY: the caller has AVX2.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(samples), _mm256_extractf128_ps(samples, 1));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
vector!(
    Avx512,
    16,
    14,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_fmadd_ps,
    _mm512_fnmadd_ps,
    _mm512_max_ps,
    _mm512_min_ps,
    _mm512_reduce_add_ps
);

/// Two registers of four: as many channels as AVX2 has.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub(super) struct Neon(float32x4x2_t);

#[cfg(target_arch = "aarch64")]
mod neon {
    //! Each of the two halves.
    use std::arch::aarch64::*;

    #[inline(always)]
    pub unsafe fn splat(value: f32) -> float32x4x2_t {
        // SAFETY: the caller has NEON.
        unsafe { float32x4x2_t(vdupq_n_f32(value), vdupq_n_f32(value)) }
    }

    #[inline(always)]
    pub unsafe fn load(from: *const f32) -> float32x4x2_t {
        // SAFETY: the caller has NEON and eight samples.
        unsafe { float32x4x2_t(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }

    #[inline(always)]
    pub unsafe fn store(to: *mut f32, value: float32x4x2_t) {
        // SAFETY: the caller has NEON and room for eight samples.
        unsafe {
            vst1q_f32(to, value.0);
            vst1q_f32(to.add(4), value.1);
        }
    }

    macro_rules! halves {
        ($name:ident, $intrinsic:ident) => {
            #[inline(always)]
            pub unsafe fn $name(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
                // SAFETY: the caller has NEON.
                unsafe { float32x4x2_t($intrinsic(a.0, b.0), $intrinsic(a.1, b.1)) }
            }
        };
    }
    halves!(add, vaddq_f32);
    halves!(sub, vsubq_f32);
    #[inline(always)]
    pub unsafe fn sum(samples: float32x4x2_t) -> f32 {
        // SAFETY: the caller has NEON.
        unsafe { vaddvq_f32(vaddq_f32(samples.0, samples.1)) }
    }

    halves!(max, vmaxq_f32);
    halves!(min, vminq_f32);

    #[inline(always)]
    pub unsafe fn fma(a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: the caller has NEON.
        unsafe { float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }

    #[inline(always)]
    pub unsafe fn fnma(a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: the caller has NEON.
        unsafe { float32x4x2_t(vfmsq_f32(c.0, a.0, b.0), vfmsq_f32(c.1, a.1, b.1)) }
    }
}

#[cfg(target_arch = "aarch64")]
use neon::{add, fma, fnma, load, max, min, splat, store, sub, sum};
#[cfg(target_arch = "aarch64")]
vector!(Neon, 8, 6, splat, load, store, add, sub, fma, fnma, max, min, sum);
