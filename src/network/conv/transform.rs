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
#![expect(clippy::needless_range_loop, reason = "loops over constants alone are unrolled into registers")]

use super::simd::Vector;

/// Most samples of a transform.
pub(super) const MOST_SIDE: usize = 8;
/// Most results.
pub(super) const MOST_TILE: usize = 4;
/// Most pairs of points ±p.
const MOST_PAIRS: usize = MOST_SIDE / 2 - 1;
/// Which point is −a.
pub(super) const MINUS_A: usize = 2;

/// The rows of a pair, which share their even and odd parts: 0 and infinity, ±a, ±b, …
pub(super) fn pair_rows<const SIDE: usize>(pair: usize) -> [usize; 2] {
    if pair == 0 { [0, SIDE - 1] } else { [2 * pair - 1, 2 * pair] }
}

/// F(`tile`, side + 1 − tile).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Method {
    /// Results along an axis: 2, 3 or 4.
    pub tile: usize,
    /// Samples under them, and points: 4, 6 or 8.
    pub side: usize,
    /// a, b, c; as many as there are pairs.
    points: [f32; MOST_PAIRS],
}

impl Method {
    /// The one for so many taps, if there is one that is faster than a sum over taps: for inputs that may be enlarged;
    /// `precise`: one that rounds hardly more than such a sum.
    pub(super) fn new(taps: usize, doubled: bool, precise: bool) -> Option<Self> {
        let (tile, points) = match (taps, precise, doubled) {
            // F(5, 2) would multiply a fifth less, of twice the weights: measured no faster, and five times the error.
            (2, ..) => (3, [1.0, 0.0, 0.0]),
            (3, true, _) => (2, [1.0, 0.0, 0.0]),
            (3, false, false) => (4, [0.625, 1.5, 0.0]),
            (3, false, true) => (4, [1.0, 0.625, 0.0]),
            (5, false, _) => (4, [1.0, 0.5, 2.0]),
            _ => return None,
        };
        Some(Self { tile, side: tile + taps - 1, points })
    }

    pub(super) fn taps(self) -> usize {
        self.side + 1 - self.tile
    }

    /// G in f64, row by row: [side][taps].
    pub(super) fn weights(self) -> Vec<Vec<f64>> {
        let taps = self.taps();
        let pairs = self.points[..self.side / 2 - 1].iter().map(|&p| f64::from(p));
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
    powers: [[V; MOST_TILE]; MOST_PAIRS],
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
        let points = &method.points[..method.side / 2 - 1];
        // SAFETY: as the caller promises.
        unsafe {
            let zero = V::splat(0.0);
            let mut factors = Self {
                powers: [[zero; MOST_TILE]; MOST_PAIRS],
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
                for i in 0..MOST_TILE {
                    factors.powers[k][i] = V::splat(power);
                    power *= points[k];
                }
            }
            factors
        }
    }

    /// Two rows of Bᵀ d, those of a pair. Only the first `SIDE` elements count.
    ///
    /// # Safety
    /// The contract of [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn input_pair<const SIDE: usize, const PAIR: usize>(&self, d: [V; MOST_SIDE]) -> [V; 2] {
        let pairs = SIDE / 2 - 1;
        // SAFETY: as the caller promises.
        unsafe {
            if PAIR == 0 {
                // Π (x² − q²) over all, and at infinity x times that.
                let (mut first, mut last) = (d[SIDE - 2], d[SIDE - 1]);
                for i in (0..pairs).rev() {
                    first = d[2 * i].times_plus(self.all[i], first);
                    last = d[2 * i + 1].times_plus(self.all[i], last);
                }
                return [first, last];
            }
            // x (x ± p) Π (x² − q²) over the others: even powers from x x, odd ones from ±p x.
            let k = PAIR - 1;
            let (mut even, mut odd) = (d[SIDE - 2], d[SIDE - 3]);
            for i in (0..pairs - 1).rev() {
                even = d[2 * i + 2].times_plus(self.others[k][i], even);
                odd = d[2 * i + 1].times_plus(self.others[k][i], odd);
            }
            [odd.times_plus(self.powers[k][1], even), odd.subtracted_times(self.powers[k][1], even)]
        }
    }

    /// Bᵀ d. Only the first `SIDE` elements count.
    ///
    /// # Safety
    /// The contract of [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn input<const SIDE: usize>(&self, d: [V; MOST_SIDE]) -> [V; MOST_SIDE] {
        let mut result = d;
        // SAFETY: as the caller promises.
        unsafe {
            [result[0], result[SIDE - 1]] = self.input_pair::<SIDE, 0>(d);
            [result[1], result[2]] = self.input_pair::<SIDE, 1>(d);
            if SIDE > 4 {
                [result[3], result[4]] = self.input_pair::<SIDE, 2>(d);
            }
            if SIDE > 6 {
                [result[5], result[6]] = self.input_pair::<SIDE, 3>(d);
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
        let pairs = SIDE / 2 - 1;
        // SAFETY: as the caller promises.
        unsafe {
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
