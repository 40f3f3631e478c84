//! A model file on pairs, through the engine: what a user gets, scored under the protocol of `mdr evaluate`.

use crate::frequency::{self, Ring};
use crate::pairs::{self, Plane};
use anyhow::{Context, Result, ensure};
use mdr::metrics::{self, Scale, Scores, SsimWindow};
use mdr::{Image, Model, RestoreOptions};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Scores of one plane of one pair. The plain figures are on the scale `input` of `mdr evaluate`: the percentiles of the
/// degraded image become 0 and 1, in it and in the restored image.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// File name of the degraded image.
    pub name: String,
    /// The degraded image itself.
    pub input: Scores,
    /// The restored image.
    pub restored: Scores,
    /// Where in frequency it is right, after the affine match.
    pub rings: [Ring; 6],
}

/// Restores and scores all pairs (`low/NAME` with `high/NAME`) at any depth below `data`.
///
/// # Errors
/// Where a file cannot be read or the model does not fit the images.
pub fn evaluate(model: &Model, data: &Path, options: &RestoreOptions) -> Result<Vec<Row>> {
    score(data, &mut |_, low| restore(model, low, options))
}

/// Restores the degraded image of a pair. A pair lies on one grid: nothing is resampled, whatever the model's task.
///
/// # Errors
/// Where the model does not fit the image.
pub fn restore(model: &Model, low: &Image, options: &RestoreOptions) -> Result<Image> {
    let options = RestoreOptions { slices: true, ..options.clone() };
    Ok(mdr::restore(model, low, &options, &mut |_| true)?)
}

/// As [`evaluate`], with anything that restores an image, given its path relative to `data` too.
///
/// # Errors
/// As [`evaluate`].
pub fn score(data: &Path, restore: &mut dyn FnMut(&Path, &Image) -> Result<Image>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entry in pairs::below(data)? {
        let (Some(degraded), Some(reference)) = (&entry.degraded, &entry.reference) else { continue };
        let low = mdr::tiff_io::read_tiff(data.join(degraded))?;
        let high = mdr::tiff_io::read_tiff(data.join(reference))?;
        let name = degraded.file_name().unwrap_or_default().to_string_lossy();
        let restored = restore(degraded, &low).with_context(|| name.to_string())?;
        for image in [&high, &restored] {
            ensure!(
                image.info.shape == low.info.shape,
                "{name}: reference and restored image must have the shape of the degraded one, {:?}; found {:?}",
                low.info.shape,
                image.info.shape
            );
        }
        let shape = low.info.shape;
        let (len, sides) = (shape.plane_len(), (shape.y, shape.x));
        let planes = |image: &Image, plane: usize| image.samples[plane * len..][..len].to_vec();
        for plane in 0..shape.planes() {
            let [low, high, restored] = [&low, &high, &restored].map(|image| planes(image, plane));
            let score = |image: &[f32]| {
                metrics::evaluate(image, &high, sides, Scale::Input(&low), SsimWindow::Uniform)
                    .with_context(|| name.to_string())
            };
            let scores = [score(&low)?, score(&restored)?];
            // On the scale of the score, but for its zero, which a spectrum does not see.
            let range = metrics::percentile(&high, 99.9)? - metrics::percentile(&high, 0.1)?;
            let fitted = |image: &[f32]| -> Result<Plane> {
                let gain = metrics::affine_match(image, &high)?.gain / range;
                let samples = image.iter().map(|&sample| (f64::from(sample) * gain) as f32).collect();
                Ok(Plane { y: sides.0, x: sides.1, samples })
            };
            let rings = frequency::rings([&fitted(&low)?, &fitted(&restored)?, &fitted(&high)?]);
            let name = if plane == 0 { name.to_string() } else { format!("{name} plane {plane}") };
            let [input, restored] = scores;
            rows.push(Row { name, input, restored, rings });
        }
    }
    Ok(rows)
}

/// Means over all images, and over each subset (the part of a name before the first `_`) where there are several.
pub fn table(rows: &[Row]) -> String {
    let mut subsets: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        subsets.entry(row.name.split('_').next().unwrap_or_default()).or_default().push(row);
    }
    let mut text = String::from(
        "PSNR/SSIM         images |  input: affine   plain, scale input |  restored: affine   plain, scale input\n",
    );
    let mut line = |name: &str, rows: &[&Row]| {
        let input = Scores::mean(&rows.iter().map(|row| row.input).collect::<Vec<_>>());
        let restored = Scores::mean(&rows.iter().map(|row| row.restored).collect::<Vec<_>>());
        let (Some(i), Some(r)) = (input, restored) else { return };
        let _ = writeln!(
            text,
            "{name:<17} {:>6} |  {:>7.2}/{:.3} {:>14.2}/{:.3} |  {:>10.2}/{:.3} {:>14.2}/{:.3}",
            rows.len(),
            i.psnr_affine,
            i.ssim_affine,
            i.psnr,
            i.ssim,
            r.psnr_affine,
            r.ssim_affine,
            r.psnr,
            r.ssim
        );
    };
    if (2..=20).contains(&subsets.len()) {
        subsets.iter().for_each(|(name, rows)| line(name, rows));
    }
    line("all", &rows.iter().collect::<Vec<_>>());
    text.push('\n');
    text.push_str(&frequency::table(rows.iter().map(|row| &row.rings)));
    text
}
