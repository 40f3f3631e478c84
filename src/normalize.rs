//! Intensities of the source → the scale on which networks were trained, and back. Statistics are taken over all
//! finite samples of one channel, over the whole image, stack or series: never per tile or plane, which would change
//! intensities from one to the next.
//!
//! Percentiles are exact and need no copy of the image: the bits of an f32 sort like an integer, so one pass counts
//! the upper 16 bits and a second one the lower 16 bits of the few values that matter. Integers of up to 16 bits are
//! counted as they are, in one pass.

use crate::share::{PIECE, share};
use crate::zeros::zeros;
use crate::{Error, ImageInfo, PixelType, PlaneIndex, PlaneSource, Result};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

/// How intensities are brought to the scale of the network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Normalization {
    /// `low` and `high` percentile (0–100) become 0 and 1; nothing is clipped. Where the two coincide, minimum and
    /// maximum take their place.
    Percentile {
        /// Percentile that becomes 0.
        low: f64,
        /// Percentile that becomes 1.
        high: f64,
    },
    /// Mean becomes 0, standard deviation 1.
    MeanStd,
    /// The same for every image: `sample · gain + offset`.
    Linear {
        /// Not 0.
        gain: f64,
        /// Added after the multiplication.
        offset: f64,
    },
    /// Samples are passed on as they are.
    None,
}

/// A normalisation with its numbers: `normalised = (sample - offset) / range`. In JSON the numbers are strings, such as
/// `{"offset":"1.015e2","range":"8.3e1"}`, for what reads a JSON number may round it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// What becomes 0.
    #[serde(with = "exact")]
    pub offset: f64,
    /// What becomes 1, less `offset`; 0 for a constant channel, which becomes 0 and is given back exactly.
    #[serde(with = "exact")]
    pub range: f64,
}

/// A number as a string, which comes back as it was.
mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{number:e}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        let text = String::deserialize(from)?;
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| D::Error::custom(format!("{text:?}: expected a finite number")))
    }
}

impl Normalization {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `0 <= low < high <= 100`.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::Percentile { low, high } if !(0.0 <= low && low < high && high <= 100.0) => {
                Err(Error::InvalidOption(format!(
                    "percentiles {low} and {high}: expected 0 <= low < high <= 100, such as 2 and 99.8"
                )))
            }
            Self::Linear { gain, offset } if !(gain != 0.0 && gain.recip().is_finite() && offset.is_finite()) => Err(
                Error::InvalidOption(format!("gain {gain} and offset {offset}: expected a finite gain that is not 0")),
            ),
            _ => Ok(()),
        }
    }

    /// Takes the statistics of one channel of a source. `go_on` is asked before every plane.
    ///
    /// # Errors
    /// Those of the source, and [`Error::Cancelled`] where `go_on` returns `false`.
    pub fn fit(&self, source: &mut dyn PlaneSource, channel: usize, go_on: &mut dyn FnMut() -> bool) -> Result<Fitted> {
        self.fit_through(source, channel, 1, &mut Vec::new(), go_on)
    }

    /// The same, with memory for a plane: the last that was read stays there. Percentiles are counted in so many threads.
    pub(crate) fn fit_through(
        &self,
        source: &mut dyn PlaneSource,
        channel: usize,
        threads: usize,
        plane: &mut Vec<f32>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Fitted> {
        let mut samples = Samples { source, channel, threads, plane, is_read: false, go_on };
        match *self {
            Self::None => Ok(Fitted { offset: 0.0, range: 1.0 }),
            Self::Linear { gain, offset } => Ok(Fitted { offset: -offset / gain, range: 1.0 / gain }),
            Self::MeanStd => {
                let (mut count, mut sum) = (0u64, 0.0);
                samples.visit(|plane| {
                    for value in finite(plane) {
                        count += 1;
                        sum += f64::from(value);
                    }
                })?;
                let mean = if count == 0 { 0.0 } else { sum / count as f64 };
                let mut squares = 0.0;
                samples.visit(|plane| finite(plane).for_each(|value| squares += (f64::from(value) - mean).powi(2)))?;
                let range = if count == 0 { 0.0 } else { (squares / count as f64).sqrt() };
                Ok(Fitted { offset: mean, range })
            }
            Self::Percentile { low, high } => {
                let [low, high, min, max] = samples.percentiles([low, high, 0.0, 100.0])?;
                let (low, high) = if high > low { (low, high) } else { (min, max) };
                Ok(Fitted { offset: low, range: high - low })
            }
        }
    }
}

impl Fitted {
    /// Normalises samples in place.
    pub fn apply(&self, samples: &mut [f32]) {
        let factor = if self.range == 0.0 { 0.0 } else { 1.0 / self.range };
        for sample in samples {
            *sample = ((f64::from(*sample) - self.offset) * factor) as f32;
        }
    }

    /// Samples, finite ones, that are no further from 0 than `most` once they are normalised.
    pub(crate) fn within(&self, most: f64) -> RangeInclusive<f32> {
        let reach = if self.range == 0.0 { f64::INFINITY } else { (most * self.range).abs() };
        let limit = |value: f64| value.clamp(f32::MIN.into(), f32::MAX.into()) as f32;
        limit(self.offset - reach)..=limit(self.offset + reach)
    }

    /// Takes samples back to the intensities of the source, in place.
    pub fn undo(&self, samples: &mut [f32]) {
        for sample in samples {
            *sample = (f64::from(*sample) * self.range + self.offset) as f32;
        }
    }
}

/// The samples of one channel, plane by plane, as often as needed.
struct Samples<'a> {
    source: &'a mut dyn PlaneSource,
    channel: usize,
    threads: usize,
    plane: &'a mut Vec<f32>,
    /// Whether `plane` holds one of the channel already.
    is_read: bool,
    go_on: &'a mut dyn FnMut() -> bool,
}

impl Samples<'_> {
    fn visit(&mut self, mut each: impl FnMut(&[f32])) -> Result<()> {
        let shape = self.source.info().shape;
        if self.plane.is_empty() {
            *self.plane = zeros(shape.plane_len()).map_err(|_| {
                Error::InvalidOption(format!("a plane of {} by {} pixels exceeds the memory", shape.y, shape.x))
            })?;
        }
        let is_only = shape.t * shape.z == 1;
        for t in 0..shape.t {
            for z in 0..shape.z {
                if !(self.go_on)() {
                    return Err(Error::Cancelled);
                }
                if !(self.is_read && is_only) {
                    self.source.read_plane(PlaneIndex { t, c: self.channel, z }, self.plane)?;
                    self.is_read = true;
                }
                each(self.plane);
            }
        }
        Ok(())
    }

    /// How many samples belong into each of so many slots.
    fn count(&mut self, slots: usize, slot: impl Fn(f32) -> Option<usize> + Sync) -> Result<Vec<u64>> {
        let threads = self.threads;
        let total = Mutex::new(vec![0u64; slots]);
        let add = |counts: &mut [u64], samples: &[f32]| {
            samples.iter().filter_map(|&sample| slot(sample)).for_each(|slot| counts[slot] += 1);
        };
        let locked = || total.lock().unwrap_or_else(PoisonError::into_inner);
        self.visit(|plane| {
            // Counts of all threads take no more memory than the plane, and less time to add up than to make.
            let threads = threads.min(plane.len() / (2 * slots));
            if threads <= 1 {
                return add(&mut locked(), plane);
            }
            share(plane.chunks(PIECE), threads, |next| {
                let mut counts = vec![0; slots];
                while let Some(piece) = next() {
                    add(&mut counts, piece);
                }
                locked().iter_mut().zip(counts).for_each(|(total, count)| *total += count);
            });
        })?;
        Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Percentiles with linear interpolation between neighbours, as numpy's; zeros where no sample is finite.
    fn percentiles<const N: usize>(&mut self, percents: [f64; N]) -> Result<[f64; N]> {
        let ImageInfo { shape, pixel_type, .. } = *self.source.info();
        if let PixelType::U8 | PixelType::U16 = pixel_type {
            // One pass is enough, unless the source gives what it does not promise.
            let whole = |value: f32| Some(value as u16).filter(|&number| f32::from(number) == value).map(usize::from);
            let counts = self.count(1 << 16, whole)?;
            let count = (shape.t * shape.z * shape.plane_len()) as u64;
            if count > 0 && counts.iter().sum::<u64>() == count {
                let value = |rank: u64| locate(&counts, rank).0 as f64;
                return Ok(percents.map(|percent| interpolated(percent, count, value)));
            }
        }
        let key = |value: f32| value.is_finite().then(|| sortable(value) as usize);
        let upper = self.count(1 << 16, |value| key(value).map(|key| key >> 16))?;
        let count: u64 = upper.iter().sum();
        if count == 0 {
            return Ok([0.0; N]);
        }
        // Of the values in these slots the lower bits matter too.
        let around = percents.into_iter().flat_map(|percent| ranks(percent, count));
        let mut highs: Vec<usize> = around.map(|rank| locate(&upper, rank).0).collect();
        highs.sort_unstable();
        highs.dedup();
        let place = |high: usize| highs.iter().position(|&other| other == high);
        let lower = self.count(highs.len() << 16, |value| {
            let key = key(value)?;
            Some(place(key >> 16)? << 16 | key & 0xffff)
        })?;
        let value = |rank: u64| {
            let (high, rest) = locate(&upper, rank);
            let place = place(high).expect("it was among those that were counted");
            let (low, _) = locate(&lower[place << 16..][..1 << 16], rest);
            f64::from(unsortable((high << 16 | low) as u32))
        };
        Ok(percents.map(|percent| interpolated(percent, count, value)))
    }
}

fn finite(plane: &[f32]) -> impl Iterator<Item = f32> {
    plane.iter().copied().filter(|value| value.is_finite())
}

/// Where a percentile is among `count` sorted values: its position between the first, 0, and the last.
fn position(percent: f64, count: u64) -> f64 {
    percent / 100.0 * (count - 1) as f64
}

/// The ranks of the values below and above it.
fn ranks(percent: f64, count: u64) -> [u64; 2] {
    let position = position(percent, count);
    [position.floor() as u64, position.ceil() as u64]
}

/// The percentile, from the value of each rank.
fn interpolated(percent: f64, count: u64, value: impl Fn(u64) -> f64) -> f64 {
    let [below, above] = ranks(percent, count).map(value);
    below + (above - below) * position(percent, count).fract()
}

/// The slot of `counts` that holds the value of this rank, and its rank within the slot.
fn locate(counts: &[u64], mut rank: u64) -> (usize, u64) {
    for (slot, &count) in counts.iter().enumerate() {
        if rank < count {
            return (slot, rank);
        }
        rank -= count;
    }
    (counts.len() - 1, 0)
}

/// Bits of a finite f32, changed such that they sort as the values do.
fn sortable(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

fn unsortable(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, ImageInfo, Shape};

    fn image(samples: Vec<f32>) -> Image {
        Image::from_plane(1, samples.len(), samples).expect("length fits")
    }

    fn fit(normalization: Normalization, samples: &[f32]) -> Fitted {
        normalization.fit(&mut image(samples.to_vec()).as_source(), 0, &mut || true).expect("in memory")
    }

    /// Against sorting, on values of all signs and sizes.
    #[test]
    fn percentiles_equal_those_of_sorted_values() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        for len in [1, 2, 3, 10, 1000, 2 * PIECE + 1] {
            let samples: Vec<f32> =
                (0..len).map(|_| (random() as f32 - 8e6) * 10f32.powi(random() as i32 % 9)).collect();
            let mut sorted = samples.clone();
            sorted.sort_by(f32::total_cmp);
            let percents = [0.0, 2.0, 37.5, 99.8, 100.0];
            let source = image(samples);
            let mut source = source.as_source();
            let mut found = |threads: usize| {
                let (source, go_on, plane) = (&mut source, &mut || true, &mut Vec::new());
                let mut samples = Samples { source, channel: 0, threads, plane, is_read: false, go_on };
                samples.percentiles(percents).expect("in memory")
            };
            assert_eq!(found(1), found(3));
            for (percent, found) in percents.into_iter().zip(found(1)) {
                let position = percent / 100.0 * (len - 1) as f64;
                let (below, above) = (sorted[position as usize], sorted[position.ceil() as usize]);
                let expected = f64::from(below) + (f64::from(above) - f64::from(below)) * position.fract();
                assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{percent}: {found} for {expected}");
            }
        }
    }

    /// Counted in one pass, they are those of the same values as floats; a source that promises integers and gives
    /// others does no harm.
    #[test]
    fn percentiles_of_integers_are_those_of_floats() {
        let integers: Vec<f32> = (0u32..5000).map(|i| (i * i % 40_009) as f32).chain([f32::NAN, 65_535.0]).collect();
        for samples in [integers.clone(), [integers.clone(), vec![0.5]].concat(), [integers, vec![-7.0]].concat()] {
            let mut source = image(samples);
            let normalization = Normalization::Percentile { low: 3.0, high: 99.9 };
            let mut fitted = |pixel_type| {
                source.info.pixel_type = pixel_type;
                normalization.fit(&mut source.as_source(), 0, &mut || true).expect("in memory")
            };
            assert_eq!(fitted(PixelType::U16), fitted(PixelType::F32));
        }
    }

    #[test]
    fn undo_takes_back_apply() {
        let samples: Vec<f32> = (0..500).map(|i| 100.0 + (i * i % 977) as f32).collect();
        let kinds = [
            Normalization::Percentile { low: 2.0, high: 99.8 },
            Normalization::MeanStd,
            Normalization::Linear { gain: 0.01, offset: -2.0 },
            Normalization::Linear { gain: -0.01, offset: 1.0 },
            Normalization::None,
        ];
        for normalization in kinds {
            let fitted = fit(normalization, &samples);
            let mut there_and_back = samples.clone();
            fitted.apply(&mut there_and_back);
            fitted.undo(&mut there_and_back);
            assert!(samples.iter().zip(&there_and_back).all(|(a, b)| (a - b).abs() < 1e-3), "{normalization:?}");
        }
        let mut samples = samples;
        let fitted = fit(Normalization::MeanStd, &samples);
        fitted.apply(&mut samples);
        let mean: f32 = samples.iter().sum::<f32>() / 500.0;
        assert!(mean.abs() < 1e-5);
        assert!((samples.iter().map(|s| s * s).sum::<f32>() / 500.0 - 1.0).abs() < 1e-4);
    }

    #[test]
    fn a_constant_channel_comes_back_exactly() {
        for normalization in [Normalization::Percentile { low: 2.0, high: 99.8 }, Normalization::MeanStd] {
            let fitted = fit(normalization, &[7.25; 64]);
            let mut samples = vec![7.25; 4];
            fitted.apply(&mut samples);
            assert_eq!(samples, [0.0; 4]);
            samples = vec![0.3; 4];
            fitted.undo(&mut samples);
            assert_eq!(samples, [7.25; 4]);
        }
    }

    #[test]
    fn a_few_bright_pixels_on_nothing_still_have_a_range() {
        let mut samples = vec![0.0; 100_000];
        samples[5] = 50.0;
        let fitted = fit(Normalization::Percentile { low: 2.0, high: 99.8 }, &samples);
        assert_eq!(fitted, Fitted { offset: 0.0, range: 50.0 });
    }

    #[test]
    fn what_is_not_finite_does_not_count() {
        let samples = [1.0, f32::NAN, 3.0, f32::INFINITY, 2.0, f32::NEG_INFINITY];
        let fitted = fit(Normalization::Percentile { low: 0.0, high: 100.0 }, &samples);
        assert_eq!(fitted, Fitted { offset: 1.0, range: 2.0 });
        assert_eq!(fit(Normalization::MeanStd, &[f32::NAN]).range, 0.0);
        assert_eq!(fit(Normalization::Percentile { low: 0.0, high: 100.0 }, &[f32::NAN]).range, 0.0);
    }

    #[test]
    fn each_channel_has_its_own_statistics() {
        let info = ImageInfo::new(Shape { t: 1, c: 2, z: 2, y: 1, x: 2 }, PixelType::F32);
        let image = Image::new(info, vec![0.0, 1.0, 2.0, 4.0, 10.0, 20.0, 30.0, 50.0]).expect("length fits");
        let mut image = image.as_source();
        let whole = Normalization::Percentile { low: 0.0, high: 100.0 };
        assert_eq!(whole.fit(&mut image, 0, &mut || true).expect("ok"), Fitted { offset: 0.0, range: 4.0 });
        assert_eq!(whole.fit(&mut image, 1, &mut || true).expect("ok"), Fitted { offset: 10.0, range: 40.0 });
        assert!(matches!(whole.fit(&mut image, 1, &mut || false), Err(Error::Cancelled)));
    }

    #[test]
    fn fitted_numbers_survive_json() {
        let mut state = 1_u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let offset = (state >> 11) as f64 / 1e11;
            let fitted = Fitted { offset, range: offset * 1e-6 };
            let json = serde_json::to_string(&fitted).unwrap();
            assert_eq!(serde_json::from_str::<Fitted>(&json).unwrap(), fitted, "{json}");
        }
    }
}
