//! Where tiles lie: integers only, one axis at a time. An axis of `len` pixels, padded by reflection to what the
//! network accepts, becomes [`Span`]s: what the network reads, and what of its output is kept. Tiles of a plane or
//! volume are the products of the spans of its axes.
//!
//! All tiles of an axis have one size, so the network is optimised once; the last one is shifted inward. A tile at
//! the border of the image ends there, so that the network pads it as it would pad the whole image: with a halo that
//! covers the receptive field, tiles cannot be told from one single run. A read begins at a multiple of the
//! network's strides, so that pooling falls on the same grid in every tile.

use std::ops::Range;

/// What a network asks of a tile along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// Pixels beyond an output pixel that can change it.
    pub halo: usize,
    /// Sides and positions must be multiples of this; at least 1.
    pub multiple: usize,
    /// The only side that the network accepts, where it is fixed.
    pub fixed: Option<usize>,
}

impl Constraint {
    /// Length of an axis of `len` pixels after padding.
    pub fn padded(&self, len: usize) -> usize {
        let padded = len.max(1).next_multiple_of(self.multiple);
        self.fixed.map_or(padded, |side| padded.max(side))
    }
}

/// One tile along one axis, in input pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What the network sees; may go beyond the image, where [`reflect`] says which pixel stands there.
    pub read: Range<usize>,
    /// What is kept of the output; inside the image and inside `read`.
    pub write: Range<usize>,
}

/// The tiles of one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AxisTiling {
    /// From the first pixel to the last.
    pub spans: Vec<Span>,
    /// Input pixels that the writes of two neighbours share, to be blended.
    pub blended: usize,
}

impl AxisTiling {
    /// One tile that covers everything.
    pub fn whole(len: usize, constraint: Constraint) -> Self {
        Self { spans: vec![Span { read: 0..constraint.padded(len), write: 0..len }], blended: 0 }
    }

    /// Tiles of side `tile` whose reads share `overlap` pixels. The overlap is raised to what the halo and the multiple
    /// need, the side to twice that: smaller tiles would be halo for the most part.
    pub fn new(len: usize, tile: usize, overlap: usize, constraint: Constraint) -> Self {
        let padded = constraint.padded(len);
        let halo = constraint.halo.next_multiple_of(constraint.multiple);
        let (side, shared) = Self::sides(tile, overlap, constraint);
        if side >= padded {
            return Self::whole(len, constraint);
        }
        let blended = shared - (2 * halo).min(shared);
        let mut spans: Vec<Span> = Vec::new();
        let mut start = 0;
        loop {
            let last = start + side >= padded;
            if last {
                start = padded - side;
            }
            let read = start..start + side;
            let begin = spans.last().map_or(0, |previous| previous.write.end - blended);
            let end = if last { len } else { (read.end - halo).min(len) };
            spans.push(Span { read, write: begin..end });
            if end == len {
                return Self { spans, blended };
            }
            start += side - shared;
        }
    }

    /// How many tiles [`new`](Self::new) makes, without making them.
    pub fn count(len: usize, tile: usize, overlap: usize, constraint: Constraint) -> usize {
        let (side, shared) = Self::sides(tile, overlap, constraint);
        1 + constraint.padded(len).saturating_sub(side).div_ceil(side - shared)
    }

    /// Side of the tiles, and what the reads of two neighbours share: less than the side.
    fn sides(tile: usize, overlap: usize, Constraint { halo, multiple, fixed }: Constraint) -> (usize, usize) {
        let shared = overlap.next_multiple_of(multiple).max(2 * halo.next_multiple_of(multiple));
        match fixed {
            Some(side) => (side, shared.min(side - multiple)),
            None => (tile.next_multiple_of(multiple).max(2 * shared).max(multiple), shared),
        }
    }

    /// As many tiles as this tiling has, made as small as that number allows.
    pub fn balanced(&self, len: usize, overlap: usize, constraint: Constraint) -> Self {
        let count = self.spans.len();
        if count == 1 {
            return self.clone();
        }
        let multiple = constraint.multiple;
        let shared = overlap.next_multiple_of(multiple).max(2 * constraint.halo.next_multiple_of(multiple));
        let side = (constraint.padded(len) - shared).div_ceil(count) + shared;
        let balanced = Self::new(len, side, overlap, constraint);
        if balanced.spans.len() == count { balanced } else { self.clone() }
    }

    /// Side of the tiles.
    pub fn side(&self) -> usize {
        self.spans[0].read.len()
    }

    /// How much the output of tile `index` counts for each of its kept pixels on a grid of `scale` output pixels per
    /// input pixel: ramps over the shared pixels, such that the weights of all tiles sum to 1 everywhere. `None`
    /// where nothing is shared: all weights are 1.
    pub fn weights(&self, index: usize, scale: usize) -> Option<Vec<f32>> {
        if self.blended == 0 {
            return None;
        }
        let span = &self.spans[index].write;
        let ramp = (self.blended * scale) as f64;
        let raw = |index: usize, position: usize| -> f64 {
            let write = &self.spans[index].write;
            let (start, end) = (write.start * scale, write.end * scale);
            if position < start || position >= end {
                return 0.0;
            }
            let from_start = if index == 0 { ramp } else { (position - start) as f64 + 0.5 };
            let from_end = if index + 1 == self.spans.len() { ramp } else { (end - position) as f64 - 0.5 };
            from_start.min(from_end).min(ramp)
        };
        let weight = |position: usize| {
            let all: f64 = (0..self.spans.len()).map(|other| raw(other, position)).sum();
            (raw(index, position) / all) as f32
        };
        Some((span.start * scale..span.end * scale).map(weight).collect())
    }
}

/// Which pixel of an axis of `len` pixels stands at `position` when the axis goes on by reflection, the border pixel
/// not repeated (`3 2 1 0 1 2 3 2 1`); with one pixel, always that one.
pub fn reflect(position: usize, len: usize) -> usize {
    if len == 1 {
        return 0;
    }
    let folded = position % (2 * (len - 1));
    folded.min(2 * (len - 1) - folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constraints() -> impl Iterator<Item = Constraint> {
        [(0, 1), (1, 1), (3, 2), (5, 4), (30, 4), (13, 8)].into_iter().map(|(halo, multiple)| Constraint {
            halo,
            multiple,
            fixed: None,
        })
    }

    /// Every property that the pipeline relies on, checked pixel by pixel.
    #[test]
    fn spans_cover_the_axis_with_enough_context() {
        for constraint in constraints() {
            for len in (1..70).chain([127, 128, 129, 1000]) {
                for tile in [1, 2, 7, 16, 33, 64, 200] {
                    for overlap in [0, 1, 5, 40] {
                        let tiling = AxisTiling::new(len, tile, overlap, constraint);
                        let count = AxisTiling::count(len, tile, overlap, constraint);
                        assert_eq!(tiling.spans.len(), count, "{constraint:?} {len} {tile} {overlap}");
                        let padded = constraint.padded(len);
                        let mut covered = vec![0; len];
                        for span in &tiling.spans {
                            assert_eq!(span.read.len(), tiling.side());
                            assert_eq!(span.read.start % constraint.multiple, 0);
                            assert_eq!(span.read.len() % constraint.multiple, 0);
                            assert!(span.read.end <= padded);
                            for position in span.write.clone() {
                                covered[position] += 1;
                                let before = position - span.read.start;
                                let after = span.read.end - 1 - position;
                                assert!(span.read.start == 0 || before >= constraint.halo);
                                assert!(span.read.end == padded || after >= constraint.halo);
                            }
                        }
                        assert!(covered.iter().all(|&n| n > 0), "{constraint:?} {len} {tile} {overlap}");
                        if tiling.blended == 0 {
                            assert!(covered.iter().all(|&n| n == 1));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn weights_sum_to_one() {
        for constraint in constraints() {
            for (len, tile, overlap) in [(100, 32, 20), (101, 40, 36), (64, 24, 21), (33, 8, 7)] {
                for scale in [1, 2] {
                    let tiling = AxisTiling::new(len, tile, overlap, constraint);
                    let mut sum = vec![0.0f64; len * scale];
                    for (index, span) in tiling.spans.iter().enumerate() {
                        let weights = tiling.weights(index, scale).unwrap_or(vec![1.0; span.write.len() * scale]);
                        for (i, weight) in weights.into_iter().enumerate() {
                            sum[span.write.start * scale + i] += f64::from(weight);
                        }
                    }
                    assert!(sum.iter().all(|s| (s - 1.0).abs() < 1e-6), "{constraint:?} {len} {tile} {overlap}");
                }
            }
        }
    }

    #[test]
    fn a_fixed_side_is_kept() {
        let constraint = Constraint { halo: 3, multiple: 4, fixed: Some(32) };
        for len in [1, 31, 32, 33, 100] {
            for overlap in [0, 8, 31, 500] {
                let tiling = AxisTiling::new(len, 7, overlap, constraint);
                assert!(tiling.spans.iter().all(|span| span.read.len() == 32));
                assert_eq!(tiling.spans.len(), AxisTiling::count(len, 7, overlap, constraint));
                assert_eq!(tiling.spans.last().expect("at least one").write.end, len);
            }
        }
    }

    #[test]
    fn reflection_does_not_repeat_the_border() {
        let seen: Vec<_> = (0..9).map(|position| reflect(position, 4)).collect();
        assert_eq!(seen, [0, 1, 2, 3, 2, 1, 0, 1, 2]);
        assert_eq!(reflect(7, 1), 0);
        assert_eq!((0..4).map(|position| reflect(position, 2)).collect::<Vec<_>>(), [0, 1, 0, 1]);
    }
}
