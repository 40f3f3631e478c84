//! A Z stack that is coarsely sampled along Z → an isotropic stack. Z is resampled to the pixel size by linear
//! interpolation, a 2-D network restores every XZ slice and every YZ slice, and the two results are averaged, as CARE
//! does (Weigert et al. 2018). One time point at a time is held in memory.

use ndarray::{ArrayViewMut, Axis, s};

use crate::restore::{self, OnProgress, Progress};
use crate::{
    Error, Image, ImageInfo, Model, PixelType, PlaneIndex, PlaneSink, PlaneSource, RestoreOptions, Result, Shape,
};

/// What becomes of the Z axis: as many planes as fit, one pixel size apart.
pub(crate) fn resample_info(info: &mut ImageInfo, scale: [usize; 3]) -> Result<()> {
    if info.shape.z < 2 {
        return Err(Error::ShapeMismatch {
            expected: "a stack of at least 2 Z planes, to restore its axial resolution (slices XZ, YZ: option slices)"
                .into(),
            found: format!("{} (axes {})", info.shape.z, info.axes),
        });
    }
    if scale != [1; 3] {
        return Err(Error::InvalidOption(format!(
            "task axial needs a 2-D model whose output has the grid of its input; this one's scale is {scale:?}"
        )));
    }
    let (Some(pixel), Some(step)) = (info.pixel_size_um, info.z_step_um) else {
        let lacking = match (info.pixel_size_um, info.z_step_um) {
            (None, None) => "both",
            (None, _) => "the pixel size",
            _ => "the z step",
        };
        return Err(Error::InvalidOption(format!(
            "task axial needs the pixel size and the z step in µm; the image lacks {lacking}: give it as an option"
        )));
    };
    let height = info.pixel_height_um();
    if height != Some(pixel) {
        let height = height.map_or("no length".into(), |height| format!("{height} µm"));
        return Err(Error::InvalidOption(format!(
            "task axial needs square pixels; these are {pixel} µm along X and {height} along Y"
        )));
    }
    let planes = ((info.shape.z - 1) as f64 * step / pixel * (1.0 + 1e-9)).floor() + 1.0;
    if !(2.0..=1e6).contains(&planes) {
        return Err(Error::InvalidOption(format!(
            "pixel size {pixel} µm and z step {step} µm make {planes} planes of {}; expected a pixel size near the \
             z step or below it",
            info.shape.z
        )));
    }
    info.shape.z = planes as usize;
    info.z_step_um = Some(pixel);
    Ok(())
}

/// Restores every time point of `source`; `output` is what [`restore::output_info`] says.
pub(crate) fn restore_stack(
    model: &Model,
    source: &mut dyn PlaneSource,
    output: &ImageInfo,
    sink: &mut dyn PlaneSink,
    options: &RestoreOptions,
    progress: OnProgress,
) -> Result<()> {
    if model.network().spatial_axes() != 2 {
        return Err(Error::InvalidOption("task axial needs a 2-D model, which restores XZ and YZ slices".into()));
    }
    let input = source.info().clone();
    let sizes = output.pixel_size_um.zip(options.z_step_um.or(input.z_step_um));
    let step = sizes.map(|(pixel, step)| pixel / step).expect("`resample_info` has asked for both");
    let volume = Shape { t: 1, ..output.shape };
    let limit = options.memory_limit_mb.unwrap_or(restore::DEFAULT_MEMORY_LIMIT_MB);
    let needed = (volume.len() as u64).saturating_mul(3 * 4) >> 20;
    if needed >= limit {
        return Err(Error::InvalidOption(format!(
            "memory limit {limit} MB: a time point of {} isotropic planes needs about {} MB; raise the limit, or \
             restore one channel at a time",
            volume.z,
            needed + 1
        )));
    }
    let rest = RestoreOptions { memory_limit_mb: Some(limit - needed), channel: None, ..options.clone() };

    let info = ImageInfo::new(volume, PixelType::F32);
    let plan = |across| {
        let slices = ImageInfo::new(Slices::shape(volume, across), PixelType::F32);
        Ok((across, restore::Plan::new(model, &slices, &rest)?))
    };
    let plans = ['Y', 'X'].into_iter().map(plan).collect::<Result<Vec<_>>>()?;
    let total = plans.iter().map(|(_, plan)| plan.parts()).sum::<u64>() * input.shape.t as u64;
    let go_on = &mut || progress(Progress { done: 0, total });
    let fitted = restore::fit(model, source, options, &mut Vec::new(), go_on)?;

    let first = options.channel.unwrap_or(0);
    let mut before = 0;
    for t in 0..input.shape.t {
        let mut isotropic = Image::zeros(info.clone())?;
        resample(source, t, first, step, &mut isotropic)?;
        let mut mean = Image::zeros(info.clone())?;
        for (across, plan) in &plans {
            let mut slices = Slices::new(&isotropic, *across);
            let mut average = Average { stack: &mut mean.samples, volume, across: *across };
            restore::run(model, plan, &mut slices, &mut average, &fitted, Vec::new(), &mut |report| {
                progress(Progress { done: before + report.done, total })
            })?;
            before += plan.parts();
        }
        for z in 0..volume.z {
            for c in 0..volume.c {
                sink.write_plane(PlaneIndex { t, c, z }, mean.plane(PlaneIndex { t: 0, c, z }))?;
            }
        }
    }
    Ok(())
}

/// Fills `isotropic` with the planes of a time point, channels from `first`, plane `z` being at `z * step` of the
/// source.
fn resample(source: &mut dyn PlaneSource, t: usize, first: usize, step: f64, isotropic: &mut Image) -> Result<()> {
    let Shape { c: channels, z: planes, .. } = isotropic.info.shape;
    let len = isotropic.info.shape.plane_len();
    let depth = source.info().shape.z;
    for c in 0..channels {
        let mut read = |z: usize, plane: &mut [f32]| source.read_plane(PlaneIndex { t, c: first + c, z }, plane);
        let (mut below, mut above) = (vec![0.0; len], vec![0.0; len]);
        let mut at = 0;
        read(0, &mut below)?;
        read(1, &mut above)?;
        for z in 0..planes {
            // A plane of the source stays what it is, though the ratio of the sizes is rounded.
            let exact = z as f64 * step;
            let position = if (exact - exact.round()).abs() < 1e-6 { exact.round() } else { exact };
            while at + 2 < depth && position >= (at + 1) as f64 {
                at += 1;
                std::mem::swap(&mut below, &mut above);
                read(at + 1, &mut above)?;
            }
            let part = (position - at as f64).clamp(0.0, 1.0) as f32;
            let plane: Vec<f32> = below.iter().zip(&above).map(|(&a, &b)| mix(a, b, part)).collect();
            isotropic.write_plane(PlaneIndex { t: 0, c, z }, &plane)?;
        }
    }
    Ok(())
}

/// Linear interpolation; the nearer one where one of them is not finite.
fn mix(a: f32, b: f32, part: f32) -> f32 {
    let mean = a + (b - a) * part;
    match part {
        0.0 => a,
        1.0 => b,
        _ if mean.is_finite() => mean,
        _ if part < 0.5 => a,
        _ => b,
    }
}

/// A stack seen as slices across Y (rows Z, columns X) or across X (rows Z, columns Y); the axis cut across plays the
/// part of Z.
struct Slices<'a> {
    stack: &'a Image,
    across: char,
    info: ImageInfo,
}

impl<'a> Slices<'a> {
    fn new(stack: &'a Image, across: char) -> Self {
        let info = ImageInfo::new(Self::shape(stack.info.shape, across), PixelType::F32);
        Self { stack, across, info }
    }

    fn shape(volume: Shape, across: char) -> Shape {
        let (slices, columns) = if across == 'Y' { (volume.y, volume.x) } else { (volume.x, volume.y) };
        Shape { z: slices, y: volume.z, x: columns, ..volume }
    }
}

/// The axis that is cut across, of an array with the axes Z, Y, X.
fn axis(across: char) -> Axis {
    Axis(if across == 'Y' { 1 } else { 2 })
}

impl PlaneSource for Slices<'_> {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn read_plane(&mut self, index: PlaneIndex, samples: &mut [f32]) -> Result<()> {
        let stack = self.stack.view();
        let slice = stack.slice(s![0, index.c, .., .., ..]);
        for (sample, value) in samples.iter_mut().zip(slice.index_axis(axis(self.across), index.z)) {
            *sample = *value;
        }
        Ok(())
    }
}

/// Adds half of every restored slice to a stack.
struct Average<'a> {
    stack: &'a mut [f32],
    volume: Shape,
    across: char,
}

impl PlaneSink for Average<'_> {
    fn write_plane(&mut self, index: PlaneIndex, samples: &[f32]) -> Result<()> {
        let Shape { c, z, y, x, .. } = self.volume;
        let mut stack = ArrayViewMut::from_shape((c, z, y, x), &mut *self.stack).expect("a sample for each position");
        let mut channel = stack.index_axis_mut(Axis(0), index.c);
        for (sum, sample) in channel.index_axis_mut(axis(self.across), index.z).iter_mut().zip(samples) {
            *sum += 0.5 * sample;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_of_the_source_stay_what_they_are_beside_what_is_not_finite() {
        let image = |z, samples| {
            let info = ImageInfo::new(Shape { t: 1, c: 1, z, y: 1, x: 1 }, PixelType::F32);
            Image::new(info, samples).expect("length fits")
        };
        // Nine tenths are a little more than three of the source's steps of three tenths.
        let step = 0.1 / 0.3;
        assert!(9.0 * step > 3.0);
        let planes = |samples: [f32; 5]| {
            let mut isotropic = image(13, vec![0.0; 13]);
            resample(&mut image(5, samples.to_vec()).as_source(), 0, 0, step, &mut isotropic).expect("resampled");
            isotropic.samples
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let found = planes([0.0, 3.0, bad, 9.0, bad]);
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a - b).abs() < 1e-5;
            let expected = [0.0, 1.0, 2.0, 3.0, 3.0, bad, bad, bad, 9.0, 9.0, 9.0, bad, bad];
            assert!(found.iter().zip(expected).all(|(&a, b)| same(a, b)), "{found:?}");
            assert_eq!((found[3], found[9]), (3.0, 9.0));
        }
    }
}
