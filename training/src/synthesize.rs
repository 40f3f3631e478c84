//! Clean images + trained CIN-GAN → degraded images, several of each, and the question whether they are like real ones:
//! histogram, noise variance against intensity, radial power spectrum, a two-sample test on small patches, and what becomes
//! of each spatial frequency (transfer.rs). One sheet shows all of it.

use crate::base64::base64;
use crate::checkpoint;
use crate::config::Config;
use crate::methods::cin_gan::with_noise;
use crate::nets::{Net, on_plane};
use crate::pairs::{self, Plane};
use crate::train::{RunFolder, write};
use crate::transfer::{self, Transfer};
use anyhow::{Context, Result, ensure};
use mdr::montage::{Panel, montage};
use mdr::{Image, Task, metrics, tiff_io};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Clean pictures in a sheet.
const ROWS: usize = 4;
/// Synthetic pictures of each in a sheet.
const COLUMNS: usize = 3;
/// Side of the pictures in a sheet, and of the windows whose spectrum is taken.
const SIDE: usize = 128;

/// What `mdr-train synthesize` is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Run folder of a cin-gan or separate-gan.
    pub run: PathBuf,
    /// One of the run's tasks.
    pub task: Task,
    /// Folder of clean TIFFs.
    pub clean: PathBuf,
    /// Folder of real degraded TIFFs to compare with; none: no comparison.
    pub real: Option<PathBuf>,
    /// Folder of real pairs, low/NAME.tif and high/NAME.tif, to compare what becomes of each spatial frequency with.
    pub pairs: Option<PathBuf>,
    /// Folder to write: low/NAME_K.tif with high/NAME_K.tif, sheet.html, statistics.json.
    pub out: PathBuf,
    /// Degraded images of each clean one.
    pub samples: usize,
    /// Seed of the noise.
    pub seed: u64,
}

/// A trained generator.
pub struct Synthesizer {
    method: Box<dyn crate::methods::Method>,
    /// Of its run.
    pub config: Config,
    device: Device,
}

impl Synthesizer {
    /// Loads the best checkpoint of a run, or else its last one.
    ///
    /// # Errors
    /// Where the folder is no run of a method that synthesises.
    pub fn load(run: &Path, device: Device) -> Result<Self> {
        let run = RunFolder::new(run);
        let config = Config::of_run(&run.config())?;
        ensure!(
            config.method.synthesises(),
            "{} is a run of {}; expected cin-gan or separate-gan",
            run.root().display(),
            config.method.published_name()
        );
        let mut method = config.method.build(&config, device);
        checkpoint::load(&if run.best().exists() { run.best() } else { run.last() }, method.as_mut())?;
        Ok(Self { method, config, device })
    }

    /// A degraded version of a clean plane, both on the scale of the network, in f32.
    pub fn degrade(&self, clean: &Plane, task: usize, rng: &mut Pcg64Mcg) -> Plane {
        degrade(self.method.generator(), clean, task, self.device, rng)
    }
}

/// As [`Synthesizer::degrade`], with any generator.
pub fn degrade(net: &dyn Net, clean: &Plane, task: usize, device: Device, rng: &mut Pcg64Mcg) -> Plane {
    on_plane(clean, net.tile_multiple(), device, |image| {
        tch::no_grad(|| net.forward(&with_noise(image, rng), task, Kind::Float))
    })
}

/// Degrades every clean image, and writes pairs, statistics and the sheet; gives the path of the sheet.
///
/// # Errors
/// Where a folder or file cannot be read or written, or a plane is smaller than the smallest statistics need.
pub fn synthesize(request: &Request, device: Device) -> Result<PathBuf> {
    let synthesizer = Synthesizer::load(&request.run, device)?;
    let config = &synthesizer.config;
    let task = config.task_index(request.task)?;
    let clean = planes(&request.clean, config)?;
    let real = request.real.as_deref().map(|folder| planes(folder, config)).transpose()?;
    // Pairs of an earlier call, of other names or more samples, would stay among the new ones.
    let used = std::fs::read_dir(&request.out).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!used, "{} is not empty; choose another --out", request.out.display());
    for side in ["low", "high"] {
        let folder = request.out.join(side);
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let mut rng = Pcg64Mcg::seed_from_u64(request.seed);
    let mut synthetic: Vec<Vec<Plane>> = Vec::new();
    for (name, plane) in &clean {
        let made: Vec<Plane> = (0..request.samples).map(|_| synthesizer.degrade(plane, task, &mut rng)).collect();
        for (number, degraded) in made.iter().enumerate() {
            for (side, plane) in [("low", degraded), ("high", plane)] {
                let image = Image::from_plane(plane.y, plane.x, plane.samples.clone())?;
                tiff_io::write_tiff(request.out.join(side).join(format!("{name}_{number}.tif")), &image, true)?;
            }
        }
        synthetic.push(made);
    }
    let real = real.map(|planes| planes.into_iter().map(|(_, plane)| plane).collect::<Vec<_>>());
    let clean: Vec<Plane> = clean.into_iter().map(|(_, plane)| plane).collect();
    let made: Vec<Plane> = synthetic.iter().flatten().cloned().collect();
    let comparison = real.as_deref().map(|real| compare(real, &made, request.seed)).transpose()?;
    let both: Vec<(&Plane, &Plane)> =
        clean.iter().zip(&synthetic).flat_map(|(clean, made)| made.iter().map(move |made| (clean, made))).collect();
    let real_transfer = request.pairs.as_deref().map(|folder| transfer_of(folder, config)).transpose()?.flatten();
    let report = Report { comparison, transfer: transfer::transfer(&both), real_transfer };
    write(&request.out.join("statistics.json"), serde_json::to_string_pretty(&report)?.as_bytes())?;
    let picture = request.out.join("sheet.png");
    write_picture(&picture, &clean, real.as_deref().unwrap_or(&[]), &synthetic)?;
    let sheet = request.out.join("sheet.html");
    write(&sheet, html(&picture, request, &report)?.as_bytes())?;
    Ok(sheet)
}

/// What statistics.json holds.
#[derive(Clone, Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    comparison: Option<Comparison>,
    /// Of the synthetic pairs, along Y and X.
    transfer: Option<[Transfer; 2]>,
    /// Of real pairs.
    real_transfer: Option<[Transfer; 2]>,
}

/// Of the pairs in a folder.
fn transfer_of(folder: &Path, config: &Config) -> Result<Option<[Transfer; 2]>> {
    let [low, high] = ["low", "high"].map(|side| planes(&folder.join(side), config));
    let (low, high) = (low?, high?);
    let partner = |name: &str| high.iter().find(|(other, _)| other == name).map(|(_, plane)| plane);
    let pairs: Vec<_> = low.iter().filter_map(|(name, plane)| Some((partner(name)?, plane))).collect();
    ensure!(!pairs.is_empty(), "{}: no file of low has a partner of its name in high", folder.display());
    Ok(transfer::transfer(&pairs))
}

/// All planes of the TIFFs of a folder, normalised as the run's images.
fn planes(folder: &Path, config: &Config) -> Result<Vec<(String, Plane)>> {
    let mut found = Vec::new();
    for path in pairs::list(folder)?.0 {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (number, plane) in pairs::normalized_planes(&path, &config.data)?.into_iter().enumerate() {
            found.push((if number == 0 { name.clone() } else { format!("{name}_plane{number}") }, plane));
        }
    }
    ensure!(!found.is_empty(), "{}: found no TIFF", folder.display());
    Ok(found)
}

/// Statistics that should be equal in real and synthetic images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// Part of the samples in each of 40 bins from −0.5 to 1.5.
    pub histogram: Vec<f64>,
    /// Variance of what a 3×3 mean takes away, where that mean lies in each of 10 bins from 0 to 1; NaN: nowhere.
    pub noise_variance: Vec<f64>,
    /// Power at 0, 1/128, … cycles per pixel, mean over directions and windows of 128 pixels; empty for smaller planes.
    pub spectrum: Vec<f64>,
}

/// How far synthetic images are from real ones.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Comparison {
    pub real: Statistics,
    pub synthetic: Statistics,
    pub distance: Distance,
    /// Maximum mean discrepancy (squared, unbiased; Gretton et al. 2012) of 8×8 patches.
    pub mmd_squared: f64,
    /// Part of the permutations of real and synthetic patches that have a larger one: under 0.05 the two are told apart.
    pub p_value: f64,
}

/// Distances of [`Statistics`]; 0: equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// Part of the histogram that would have to be moved, 0 to 1.
    pub histogram: f64,
    /// Mean of |ln(synthetic / real)| of the noise variance.
    pub noise_variance: f64,
    /// Mean of |ln(synthetic / real)| of the power.
    pub spectrum: f64,
}

impl Distance {
    /// One number, to choose a checkpoint by.
    pub fn total(&self) -> f64 {
        self.histogram + self.noise_variance + self.spectrum
    }
}

impl Statistics {
    /// Of planes on the scale of the network.
    pub fn of(planes: &[Plane]) -> Self {
        let mut histogram = vec![0.0; 40];
        let (mut sums, mut counts) = (vec![0.0; 10], vec![0.0; 10]);
        let (mut power, mut windows) = (None::<Tensor>, 0.0);
        let mut total = 0.0;
        for plane in planes {
            for &sample in &plane.samples {
                let bin = ((f64::from(sample) + 0.5) / 2.0 * 40.0).clamp(0.0, 39.0) as usize;
                histogram[bin] += 1.0;
                total += 1.0;
            }
            let row = |y: usize| &plane.samples[y * plane.x..][..plane.x];
            for y in 1..plane.y.saturating_sub(1) {
                let rows = [row(y - 1), row(y), row(y + 1)];
                for x in 1..plane.x.saturating_sub(1) {
                    let mean = rows.iter().flat_map(|row| &row[x - 1..=x + 1]).sum::<f32>() / 9.0;
                    if (0.0..1.0).contains(&mean) {
                        let bin = (mean * 10.0) as usize;
                        // A mean of 9 with the sample in it takes 1/9 of white noise along.
                        sums[bin] += f64::from(rows[1][x] - mean).powi(2) * 9.0 / 8.0;
                        counts[bin] += 1.0;
                    }
                }
            }
            for (y, x) in [(0, 0), (plane.y.saturating_sub(SIDE), plane.x.saturating_sub(SIDE))] {
                if plane.y >= SIDE && plane.x >= SIDE {
                    let window = transfer::spectrum(&plane.crop([y, x], [SIDE; 2])).abs().square();
                    power = Some(power.map_or_else(|| window.shallow_clone(), |sum| sum + &window));
                    windows += 1.0;
                }
            }
        }
        histogram.iter_mut().for_each(|count| *count /= f64::max(total, 1.0));
        let noise_variance =
            sums.iter().zip(&counts).map(|(sum, &count)| if count >= 50.0 { sum / count } else { f64::NAN });
        Self {
            histogram,
            noise_variance: noise_variance.collect(),
            spectrum: power.map_or_else(Vec::new, |power| radial(&(power / windows))),
        }
    }

    /// Distance from another; of what both have.
    pub fn distance(&self, other: &Self) -> Distance {
        let histogram = self.histogram.iter().zip(&other.histogram).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0;
        let logarithmic = |a: &[f64], b: &[f64]| {
            let ratios = a.iter().zip(b).map(|(a, b)| (a / b).ln().abs()).filter(|ratio| ratio.is_finite());
            let ratios: Vec<f64> = ratios.collect();
            ratios.iter().sum::<f64>() / ratios.len().max(1) as f64
        };
        Distance {
            histogram,
            noise_variance: logarithmic(&self.noise_variance, &other.noise_variance),
            spectrum: logarithmic(&self.spectrum, &other.spectrum),
        }
    }
}

/// Mean over directions, for whole numbers of cycles up to half the side.
fn radial(power: &Tensor) -> Vec<f64> {
    let side = power.size()[0] as usize;
    let values = Vec::<f64>::try_from(power.reshape([-1])).unwrap_or_default();
    let cycles = |index: usize| index.min(side - index) as f64;
    let (mut sums, mut counts) = (vec![0.0; side / 2], vec![0.0; side / 2]);
    for (index, value) in values.iter().enumerate() {
        let radius = cycles(index / side).hypot(cycles(index % side)).round() as usize;
        if radius < side / 2 {
            sums[radius] += value;
            counts[radius] += 1.0;
        }
    }
    sums.iter().zip(counts).map(|(sum, count)| sum / f64::max(count, 1.0)).collect()
}

/// Compares synthetic with real images.
///
/// # Errors
/// Where a plane is smaller than 8×8 pixels.
pub fn compare(real: &[Plane], synthetic: &[Plane], seed: u64) -> Result<Comparison> {
    let (a, b) = (Statistics::of(real), Statistics::of(synthetic));
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let (first, second) = (patches(real, &mut rng)?, patches(synthetic, &mut rng)?);
    let (mmd_squared, p_value) = two_sample(&first, &second, &mut rng);
    Ok(Comparison { distance: a.distance(&b), real: a, synthetic: b, mmd_squared, p_value })
}

/// Patches of the two-sample test, of each kind.
const PATCHES: usize = 300;
const PERMUTATIONS: usize = 200;

/// Random 8×8 patches, as N × 64.
fn patches(planes: &[Plane], rng: &mut Pcg64Mcg) -> Result<Tensor> {
    let mut samples = Vec::with_capacity(PATCHES * 64);
    for _ in 0..PATCHES {
        let plane = &planes[rng.random_range(0..planes.len())];
        ensure!(plane.y >= 8 && plane.x >= 8, "a plane of {}x{} pixels; expected at least 8x8", plane.y, plane.x);
        let corner = [rng.random_range(0..=plane.y - 8), rng.random_range(0..=plane.x - 8)];
        samples.extend(plane.crop(corner, [8; 2]).samples);
    }
    Ok(Tensor::from_slice(&samples).reshape([PATCHES as i64, 64]).to_kind(Kind::Double))
}

/// Squared MMD with a Gaussian kernel of the median distance, and its p value by permutation.
fn two_sample(a: &Tensor, b: &Tensor, rng: &mut Pcg64Mcg) -> (f64, f64) {
    let all = Tensor::cat(&[a, b], 0);
    let norms = all.square().sum_dim_intlist([1].as_slice(), true, Kind::Double);
    let distances = (&norms + norms.transpose(0, 1) - all.matmul(&all.transpose(0, 1)) * 2.0).clamp_min(0.0);
    let kernel = (&distances / (-distances.median().clamp_min(1e-12))).exp();
    let kernel = Vec::<f64>::try_from(kernel.reshape([-1])).unwrap_or_default();
    let count = 2 * PATCHES;
    let mmd = |order: &[usize]| {
        let (mut within, mut between) = (0.0, 0.0);
        for (i, &p) in order.iter().enumerate() {
            for (j, &q) in order.iter().enumerate().skip(i + 1) {
                let value = kernel[p * count + q];
                *(if (i < PATCHES) == (j < PATCHES) { &mut within } else { &mut between }) += value;
            }
        }
        let n = PATCHES as f64;
        within / (n * (n - 1.0) / 2.0) - 2.0 * between / (n * n)
    };
    let mut order: Vec<usize> = (0..count).collect();
    let found = mmd(&order);
    let larger = (0..PERMUTATIONS).filter(|_| {
        order.shuffle(rng);
        mmd(&order) >= found
    });
    let p_value = (larger.count() + 1) as f64 / (PERMUTATIONS + 1) as f64;
    (found, p_value)
}

/// Rows of clean | real degraded | synthetic …, each scaled by its own percentiles 0.1 and 99.9.
///
/// # Errors
/// Where a sample is not finite, or the file cannot be written.
pub fn write_picture(path: &Path, clean: &[Plane], real: &[Plane], synthetic: &[Vec<Plane>]) -> Result<()> {
    let crop = |plane: &Plane| {
        let sides = [plane.y.min(SIDE), plane.x.min(SIDE)];
        plane.crop([(plane.y - sides[0]) / 2, (plane.x - sides[1]) / 2], sides)
    };
    let mut rows = Vec::new();
    for (number, (plane, made)) in clean.iter().zip(synthetic).take(ROWS).enumerate() {
        let mut row = vec![("clean", crop(plane))];
        row.extend(real.get(number).map(|real| ("real degraded", crop(real))));
        row.extend(made.iter().take(COLUMNS).map(|made| ("synthetic", crop(made))));
        rows.push(row);
    }
    let mut panels = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let panel = |(caption, plane): &(&str, Plane)| -> Result<(f32, f32, String)> {
            let percentile = |q| metrics::percentile(&plane.samples, q).map(|value| value as f32);
            Ok((percentile(0.1)?, percentile(99.9)?, if number == 0 { (*caption).to_owned() } else { String::new() }))
        };
        let shown: Vec<_> = row.iter().map(panel).collect::<Result<_>>()?;
        panels.push(
            row.iter()
                .zip(shown)
                .map(|((_, plane), (low, high, caption))| Panel {
                    samples: &plane.samples,
                    shape: (plane.y, plane.x),
                    display: (low, high),
                    caption,
                })
                .collect::<Vec<_>>(),
        );
    }
    Ok(montage(&panels.iter().map(Vec::as_slice).collect::<Vec<_>>(), path)?)
}

fn html(picture: &Path, request: &Request, report: &Report) -> Result<String> {
    let bytes = std::fs::read(picture).with_context(|| picture.display().to_string())?;
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Synthetic {task}</title><style>body{{font:15px/1.5 \
         system-ui,sans-serif;max-width:60em;margin:2em auto}}td,th{{padding:.1em .8em;text-align:right}}img{{image-rendering:\
         pixelated;max-width:100%}}</style><h1>Synthetic images for the task {task}</h1><p>clean | real degraded (another \
         field) | synthetic, each scaled by its own percentiles 0.1 and 99.9</p><img alt=\"clean, real degraded and synthetic \
         images\" src=\"data:image/png;base64,{}\">",
        base64(&bytes),
        task = request.task
    );
    if let Some(synthetic) = &report.transfer {
        html.push_str(&transfer_table(synthetic, report.real_transfer.as_ref()));
    }
    let Some(Comparison { real, synthetic, distance, mmd_squared, p_value }) = &report.comparison else {
        return Ok(html);
    };
    let _ = write!(
        html,
        "<h2>What should match</h2><table><tr><td>histogram, part to be moved<td>{:.3}<tr><td>noise variance, mean |ln \
         ratio|<td>{:.3}<tr><td>power spectrum, mean |ln ratio|<td>{:.3}<tr><td>two-sample test on 8×8 patches, MMD² (p)\
         <td>{mmd_squared:.4} ({p_value:.3})</table>",
        distance.histogram, distance.noise_variance, distance.spectrum
    );
    for (title, real, synthetic, step, start) in [
        ("Part of the samples at an intensity", &real.histogram, &synthetic.histogram, 0.05, -0.5),
        ("Noise variance at an intensity", &real.noise_variance, &synthetic.noise_variance, 0.1, 0.0),
        ("Power at a spatial frequency (cycles/pixel)", &real.spectrum, &synthetic.spectrum, 1.0 / SIDE as f64, 0.0),
    ] {
        let _ = write!(html, "<h3>{title}</h3><table><tr><th>at<th>real<th>synthetic");
        for (index, (real, synthetic)) in real.iter().zip(synthetic).enumerate() {
            let _ = write!(html, "<tr><td>{:.3}<td>{real:.4}<td>{synthetic:.4}", start + step * (index as f64 + 0.5));
        }
        html.push_str("</table>");
    }
    Ok(html)
}

fn transfer_table(synthetic: &[Transfer; 2], real: Option<&[Transfer; 2]>) -> String {
    let mut html = String::from(
        "<h2>What becomes of each spatial frequency (cycles/pixel)</h2><p>The part that passes from the clean image to the \
         degraded one, and the power of what is in it beside.</p><table><tr><th>at",
    );
    let columns: Vec<(String, &[f64])> = ["Y", "X"]
        .into_iter()
        .enumerate()
        .flat_map(|(axis, name)| {
            real.into_iter().map(|real| ("real", real)).chain([("synthetic", synthetic)]).flat_map(
                move |(kind, both)| {
                    let Transfer { passed, left } = &both[axis];
                    [(format!("{name}, {kind}: passes"), &passed[..]), (format!("{name}, {kind}: beside"), &left[..])]
                },
            )
        })
        .collect();
    for (title, _) in &columns {
        let _ = write!(html, "<th>{title}");
    }
    for bin in 0..synthetic[0].passed.len() {
        let _ = write!(html, "<tr><td>{:.3}", (bin as f64 + 0.5) / 32.0);
        for (_, values) in &columns {
            let _ = write!(html, "<td>{:.4}", values[bin]);
        }
    }
    html.push_str("</table>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_distr::{Distribution, StandardNormal};

    fn noise(deviation: f32, seed: u64) -> Vec<Plane> {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let plane = |_| {
            let normal = |_| {
                0.5 + deviation * {
                    let z: f32 = StandardNormal.sample(&mut rng);
                    z
                }
            };
            Plane { y: 128, x: 128, samples: (0..128 * 128).map(normal).collect() }
        };
        (0..2).map(plane).collect()
    }

    #[test]
    fn white_noise_has_its_variance_and_a_flat_spectrum() {
        let statistics = Statistics::of(&noise(0.1, 1));
        assert!((statistics.noise_variance[4] / 0.01 - 1.0).abs() < 0.05, "{:?}", statistics.noise_variance);
        assert!(statistics.noise_variance[9].is_nan(), "no mean of 9 gets there");
        // A Hann taper keeps (3/8)² of the power of white noise.
        let expected = 0.01 * 9.0 / 64.0;
        let flat = statistics.spectrum[4..].iter().all(|power| (power / expected - 1.0).abs() < 0.5);
        assert!(flat, "{:?}", statistics.spectrum);
        assert!((statistics.histogram.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn more_noise_is_told_apart_and_equal_noise_is_not() {
        let real = noise(0.1, 1);
        let same = compare(&real, &noise(0.1, 2), 5).unwrap();
        let other = compare(&real, &noise(0.13, 3), 5).unwrap();
        assert!(same.p_value > 0.05 && other.p_value < 0.05, "{} {}", same.p_value, other.p_value);
        let twice_ln = 2.0 * (1.3f64).ln();
        assert!((other.distance.noise_variance - twice_ln).abs() < 0.1, "{:?}", other.distance);
        assert!((other.distance.spectrum - twice_ln).abs() < 0.1 && same.distance.total() < 0.2, "{:?}", same.distance);
    }
}
