//! Winograd's method in one dimension: F(M, R) gives M neighbouring results of a filter of R taps with M + R − 1
//! multiplications instead of M R.
//!
//! M results are coefficients of a product of polynomials of degree M + R − 2. A polynomial is known from its values at
//! as many points and its leading coefficient ("the value at infinity"), so: evaluate both factors at the points,
//! multiply value by value, interpolate. By transposition (Winograd 1980; Lavin and Gray 2016) the correlation that
//! networks call convolution becomes y = Aᵀ ((G g) ⊙ (Bᵀ d)) with
//!
//! - row p of G: (1, p, p², …) / Π (p − q) over the other points q; the last row (0, …, 0, 1),
//! - row i of Aᵀ: pⁱ of each point p, and of infinity 1 in the last row alone,
//! - row p of Bᵀ: the coefficients of Π (x − q) over the other points q; the last row those of Π (x − q) over all.
//!
//! In two dimensions they are applied to rows and columns. The points are 0, ±a, ±b, … and infinity, so that rows of
//! ±p share their even and odd parts. Bᵀ depends on the points alone: one transform of 4 samples serves F(2, 3) and
//! F(3, 2). Which points, decides the rounding error: 0, ±1, ±2 are usual because their factors are whole; with fused
//! multiplications that saves nothing, and 0, ±5/8, ±3/2, also exact in f32, make the largest error of F(4, 3) four
//! times smaller (`tests/data/winograd_points.py`, also for the others).
//!
//! Of an enlarged image, whose pixels are repeated, the samples from an odd position on are a b b c c d … At the point
//! −1 their transform is exactly zero: x (x − 1) (x² − b²) … pairs b with −b, c with −c. There products need no work;
//! for such inputs a is 1.
//!
//! # Three taps and a stride of 2
//! The outer taps see samples 0, 2, 4, 6 under three results, the middle one 1, 3, 5. So F(3, 2) of the even samples and
//! three products of the odd ones as they are: 7 for 3 results. Transposed likewise: of 4 samples results 0, 2, 4 come
//! by F(3, 2) and 1, 3, 5 by three products. Both together count as one transform of 7 positions, those of F(3, 2) first.
#![expect(clippy::needless_range_loop, reason = "loops over constants alone are unrolled into registers")]

use super::simd::Vector;

/// Most samples of a transform.
pub(super) const MOST_SIDE: usize = 8;
/// Most results.
const MOST_TILE: usize = 6;
/// Most powers of a point that results need.
const MOST_POWERS: usize = 5;
/// Most pairs of points ±p.
const MOST_PAIRS: usize = MOST_SIDE / 2 - 1;
/// Which point is −a.
pub(super) const MINUS_A: usize = 2;

/// Kernels whose weights may be many.
const FEW_KERNELS: usize = 128 * 128;
/// Positions of three taps and a stride of 2.
const STRIDED: usize = 7;

/// The rows of a pair, which share their even and odd parts: 0 and infinity, ±a, ±b, …
pub(super) fn pair_rows<const SIDE: usize>(pair: usize) -> [usize; 2] {
    match pair {
        // The last one of `STRIDED` has no second row.
        2.. if SIDE == STRIDED => [2 * pair, 2 * pair + 1],
        0 => [0, if SIDE == STRIDED { 3 } else { SIDE - 1 }],
        _ => [2 * pair - 1, 2 * pair],
    }
}

/// Samples under a tile, and from one tile to the next.
pub(super) const fn samples(side: usize, tile: usize) -> [usize; 2] {
    match (side, tile) {
        (STRIDED, 3) => [7, 6],
        (STRIDED, _) => [4, 3],
        _ => [side, tile],
    }
}

/// F(`tile`, side + 1 − tile), or one for a stride of 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Method {
    /// Results along an axis.
    pub tile: usize,
    /// Positions: 4, 6 or 8 points, or 7 of three taps and a stride of 2.
    pub side: usize,
    /// a, b, c; as many as there are pairs.
    points: [f32; MOST_PAIRS],
}

impl Method {
    /// The one for so many taps of so many kernels, if there is one that is faster than a sum over taps: for inputs that
    /// may be enlarged; `precise`: one that rounds hardly more than such a sum.
    pub(super) fn new(taps: usize, kernels: usize, doubled: bool, precise: bool) -> Option<Self> {
        let (tile, points) = match (taps, precise, doubled) {
            // A fifth less multiplications, of twice the weights.
            (2, false, false) if kernels <= FEW_KERNELS => (5, [0.625, 1.5, 0.0]),
            (2, ..) => (3, [1.0, 0.0, 0.0]),
            (3, true, _) => (2, [1.0, 0.0, 0.0]),
            (3, false, false) => (4, [0.625, 1.5, 0.0]),
            (3, false, true) => (4, [1.0, 0.625, 0.0]),
            (5, false, _) => (4, [1.0, 0.5, 2.0]),
            _ => return None,
        };
        Some(Self { tile, side: tile + taps - 1, points })
    }

    /// For three taps and a stride of 2.
    pub(super) fn strided(transposed: bool) -> Self {
        Self { tile: if transposed { 6 } else { 3 }, side: STRIDED, points: [1.0, 0.0, 0.0] }
    }

    /// Whether a stride of 2 is part of it.
    pub(super) fn is_strided(self) -> bool {
        self.side == STRIDED
    }

    pub(super) fn taps(self) -> usize {
        if self.is_strided() { 3 } else { self.side + 1 - self.tile }
    }

    /// a, b, …
    fn points(&self) -> &[f32] {
        &self.points[..if self.is_strided() { 1 } else { self.side / 2 - 1 }]
    }

    /// G in f64, row by row: [side][taps].
    pub(super) fn weights(self) -> Vec<Vec<f64>> {
        if self.is_strided() {
            // A transposed convolution has its taps in reverse.
            let outer = if self.tile == 3 { [0, 2] } else { [2, 0] };
            let spread = Self { tile: 3, side: 4, ..self }.weights().into_iter().map(|row| {
                let mut taps = vec![0.0; 3];
                outer.into_iter().zip(row).for_each(|(tap, factor)| taps[tap] = factor);
                taps
            });
            return spread.chain(vec![vec![0.0, 1.0, 0.0]; 3]).collect();
        }
        let taps = self.taps();
        let pairs = self.points().iter().map(|&p| f64::from(p));
        let points: Vec<f64> = std::iter::once(0.0).chain(pairs.flat_map(|p| [p, -p])).collect();
        let finite = points.iter().enumerate().map(|(i, p)| {
            let others = points.iter().enumerate().filter(|(j, _)| *j != i);
            let scale = others.map(|(_, q)| p - q).product::<f64>();
            (0..taps as i32).map(|power| p.powi(power) / scale).collect()
        });
        let infinite = (0..taps).map(|tap| f64::from(u8::from(tap + 1 == taps))).collect();
        finite.chain([infinite]).collect()
    }
}

/// What Bᵀ and Aᵀ are made of, spread over vectors.
#[derive(Clone, Copy)]
pub(super) struct Factors<V> {
    /// pⁱ of each p of the pairs.
    powers: [[V; MOST_POWERS]; MOST_PAIRS],
    /// Coefficients of Π (x² − q²) over the pairs, by powers of x²; the last, 1, left out.
    all: [V; MOST_PAIRS],
    /// The same without pair p.
    others: [[V; MOST_PAIRS]; MOST_PAIRS],
}

/// Coefficients of Π (x² − q²), all of which f32 holds exactly.
fn product(points: impl Iterator<Item = f32>) -> [f32; MOST_PAIRS + 1] {
    let mut result = [0.0; MOST_PAIRS + 1];
    result[0] = 1.0;
    for q in points {
        for i in (0..=MOST_PAIRS).rev() {
            result[i] = if i > 0 { result[i - 1] } else { 0.0 } - q * q * result[i];
        }
    }
    result
}

impl<V: Vector> Factors<V> {
    /// # Safety
    /// The contract of [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn new(method: Method) -> Self {
        let points = method.points();
        // SAFETY: as the caller promises.
        unsafe {
            let zero = V::splat(0.0);
            let mut factors = Self {
                powers: [[zero; MOST_POWERS]; MOST_PAIRS],
                all: [zero; MOST_PAIRS],
                others: [[zero; MOST_PAIRS]; MOST_PAIRS],
            };
            let all = product(points.iter().copied());
            for k in 0..points.len() {
                factors.all[k] = V::splat(all[k]);
                let others = product(points.iter().copied().enumerate().filter(|(i, _)| *i != k).map(|(_, q)| q));
                for i in 0..MOST_PAIRS {
                    factors.others[k][i] = V::splat(others[i]);
                }
                let mut power = 1.0;
                for i in 0..MOST_POWERS {
                    factors.powers[k][i] = V::splat(power);
                    power *= points[k];
                }
            }
            factors
        }
    }

    /// Two rows of Bᵀ d, those of a pair. Only the first elements count, as many as there are [`samples`].
    ///
    /// # Safety
    /// The contract of [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn input_pair<const SIDE: usize, const TILE: usize, const PAIR: usize>(
        &self,
        mut d: [V; MOST_SIDE],
    ) -> [V; 2] {
        let pairs = if SIDE == STRIDED { 1 } else { SIDE / 2 - 1 };
        let side = 2 * pairs + 2;
        // SAFETY: as the caller promises.
        unsafe {
            if SIDE == STRIDED {
                let plain = if TILE == 3 { [d[1], d[3], d[5]] } else { [d[1], d[2], d[3]] };
                if PAIR >= 2 {
                    return [plain[2 * PAIR - 4], plain[1]];
                }
                if TILE == 3 {
                    [d[1], d[2], d[3]] = [d[2], d[4], d[6]];
                }
            }
            if PAIR == 0 {
                // Π (x² − q²) over all, and at infinity x times that.
                let (mut first, mut last) = (d[side - 2], d[side - 1]);
                for i in (0..pairs).rev() {
                    first = d[2 * i].times_plus(self.all[i], first);
                    last = d[2 * i + 1].times_plus(self.all[i], last);
                }
                return [first, last];
            }
            // x (x ± p) Π (x² − q²) over the others: even powers from x x, odd ones from ±p x.
            let k = PAIR - 1;
            let (mut even, mut odd) = (d[side - 2], d[side - 3]);
            for i in (0..pairs - 1).rev() {
                even = d[2 * i + 2].times_plus(self.others[k][i], even);
                odd = d[2 * i + 1].times_plus(self.others[k][i], odd);
            }
            [odd.times_plus(self.powers[k][1], even), odd.subtracted_times(self.powers[k][1], even)]
        }
    }

    /// Bᵀ d. Only the first elements count, as many as there are [`samples`], and of the result the first `SIDE`.
    ///
    /// # Safety
    /// The contract of [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn input<const SIDE: usize, const TILE: usize>(&self, d: [V; MOST_SIDE]) -> [V; MOST_SIDE] {
        let mut result = d;
        // SAFETY: as the caller promises.
        unsafe {
            [result[0], result[pair_rows::<SIDE>(0)[1]]] = self.input_pair::<SIDE, TILE, 0>(d);
            [result[1], result[2]] = self.input_pair::<SIDE, TILE, 1>(d);
            if SIDE > 4 {
                let [first, second] = pair_rows::<SIDE>(2);
                [result[first], result[second]] = self.input_pair::<SIDE, TILE, 2>(d);
            }
            if SIDE > 6 {
                let [first, second] = pair_rows::<SIDE>(3);
                [result[first], result[second]] = self.input_pair::<SIDE, TILE, 3>(d);
            }
        }
        result
    }

    /// Aᵀ m. Only the first `SIDE` elements count, and of the result the first `TILE`.
    ///
    /// # Safety
    /// The contract of [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn output<const SIDE: usize, const TILE: usize>(&self, m: [V; MOST_SIDE]) -> [V; MOST_TILE] {
        // SAFETY: as the caller promises.
        unsafe {
            if SIDE == STRIDED {
                let outer = self.output::<4, 3>(m);
                let mut result = outer;
                for i in 0..3 {
                    if TILE == 3 {
                        result[i] = outer[i].plus(m[4 + i]);
                    } else {
                        [result[2 * i], result[2 * i + 1]] = [outer[i], m[4 + i]];
                    }
                }
                return result;
            }
            let pairs = SIDE / 2 - 1;
            let zero = V::splat(0.0);
            let (mut even, mut odd) = ([zero; MOST_PAIRS], [zero; MOST_PAIRS]);
            for k in 0..pairs {
                even[k] = m[2 * k + 1].plus(m[2 * k + 2]);
                odd[k] = m[2 * k + 1].minus(m[2 * k + 2]);
            }
            let mut result = [zero; MOST_TILE];
            result[0] = m[0];
            result[TILE - 1] = m[SIDE - 1];
            for i in 0..TILE {
                for k in (0..pairs).rev() {
                    let part = if i % 2 == 0 { even[k] } else { odd[k] };
                    result[i] = part.times_plus(self.powers[k][i], result[i]);
                }
            }
            result
        }
    }
}
