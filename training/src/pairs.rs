//! Folders → images in memory, normalised, each with its part in the split. Pairs are `low/NAME` with `high/NAME`, clean
//! images `clean/NAME`, at any depth. The split is by file: folders named train, val and test where they exist, else
//! seeded; planes of one file never end up in different parts. Files are read through the engine, and normalised by it,
//! so that training sees what inference will see.

use crate::config::{Config, Data, Folder, FolderKind, Split};
use anyhow::{Context, Result, bail, ensure};
use mdr::{Image, metrics};
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Rows and columns of f32 samples.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Plane {
    pub y: usize,
    pub x: usize,
    /// Y·X values, rows first.
    pub samples: Vec<f32>,
}

impl Plane {
    /// A copy of `height` rows and `width` columns from (`top`, `left`), which must lie inside.
    pub fn crop(&self, [top, left]: [usize; 2], [height, width]: [usize; 2]) -> Self {
        let rows = (top..top + height).flat_map(|row| &self.samples[row * self.x + left..][..width]);
        Self { y: height, x: width, samples: rows.copied().collect() }
    }

    /// Rows and columns exchanged.
    pub fn transposed(&self) -> Self {
        let columns = (0..self.x).flat_map(|column| self.samples[column..].iter().step_by(self.x));
        Self { y: self.x, x: self.y, samples: columns.copied().collect() }
    }
}

/// A degraded plane and what it should become, both on the scale of the network.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Pair {
    pub name: String,
    pub weight: f64,
    pub input: Plane,
    pub target: Plane,
}

/// A clean plane on the scale 0..1 (0.1 and 99.9 percentile of its file), not clipped.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Clean {
    pub name: String,
    pub weight: f64,
    pub plane: Plane,
}

/// The images of one part of the split.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Images {
    pub pairs: Vec<Pair>,
    pub clean: Vec<Clean>,
}

/// One file, or two that belong together, as found; nothing is read yet. What a run folder's split.json lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path of the clean image, or of the reference of a pair, relative to `--data`.
    pub reference: PathBuf,
    /// Path of the degraded image of a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<PathBuf>,
    /// What it is for.
    pub split: Split,
    /// Index of the folder in the config.
    #[serde(skip)]
    folder: usize,
    /// Whether nothing but the seeded choice decides the split.
    #[serde(skip)]
    open: bool,
}

/// Finds all images that the config names, and splits them.
///
/// # Errors
/// Where a folder is missing or holds no image, or an image of a pair has no partner.
pub fn find(config: &Config, root: &Path) -> Result<Vec<Entry>> {
    let default = [Folder { path: config.task.to_string(), split: None, kind: None, weight: 1.0 }];
    let folders = if config.data.folders.is_empty() { &default[..] } else { &config.data.folders };
    let mut found = search(folders, root)?;
    split_rest(&mut found, config);
    Ok(found)
}

/// Finds all images in these folders, in a fixed order. Where neither the config nor a folder says what an image is
/// for, it is for training.
///
/// # Errors
/// As [`find`].
pub fn search(folders: &[Folder], root: &Path) -> Result<Vec<Entry>> {
    let mut found: Vec<Entry> = Vec::new();
    let mut seen = BTreeSet::new();
    for (number, folder) in folders.iter().enumerate() {
        let base = root.join(&folder.path);
        ensure!(base.is_dir(), "{}: no such folder (named in data.folders, relative to --data)", base.display());
        let before = found.len();
        let mut add = |reference: PathBuf, degraded: Option<PathBuf>| {
            if !seen.insert(reference.clone()) {
                return;
            }
            let relative = |path: PathBuf| path.strip_prefix(root).map(Path::to_owned).unwrap_or(path);
            let named = folder.split.or_else(|| named_split(&relative(reference.clone())));
            let degraded = degraded.map(relative);
            let (split, open) = (named.unwrap_or(Split::Train), named.is_none());
            found.push(Entry { reference: relative(reference), degraded, split, folder: number, open });
        };
        let mut directories = vec![base.clone()];
        while let Some(directory) = directories.pop() {
            let (files, inner) = list(&directory)?;
            let role = directory.file_name().unwrap_or_default();
            if role == "clean" && folder.kind != Some(FolderKind::Pairs) {
                files.iter().for_each(|file| add(file.clone(), None));
            }
            let high = directory.with_file_name("high");
            if role == "low" && high.is_dir() && folder.kind != Some(FolderKind::Clean) {
                for file in &files {
                    let reference = high.join(file.file_name().unwrap_or_default());
                    ensure!(reference.is_file(), "{} has no partner {}", file.display(), reference.display());
                    add(reference, Some(file.clone()));
                }
            }
            directories.extend(inner.into_iter().rev());
        }
        ensure!(
            found.len() > before,
            "{}: found neither low/NAME.tif with high/NAME.tif nor clean/NAME.tif, at any depth",
            base.display()
        );
    }
    Ok(found)
}

/// Sorted TIFF files and folders of a folder.
fn list(directory: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let context = || format!("folder {}", directory.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(context)? {
        paths.push(entry.with_context(context)?.path());
    }
    paths.sort();
    let (inner, files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    let is_tiff = |path: &PathBuf| {
        path.extension().is_some_and(|end| end.eq_ignore_ascii_case("tif") || end.eq_ignore_ascii_case("tiff"))
    };
    Ok((files.into_iter().filter(is_tiff).collect(), inner))
}

fn named_split(path: &Path) -> Option<Split> {
    path.iter().find_map(|part| match part.to_str() {
        Some("train") => Some(Split::Train),
        Some("val") => Some(Split::Val),
        Some("test") => Some(Split::Test),
        _ => None,
    })
}

/// Splits files to which no folder gave a part: a seeded choice of pairs, and one of clean images, is for validation.
fn split_rest(found: &mut [Entry], config: &Config) {
    for pairs in [true, false] {
        let has_val = found.iter().any(|entry| entry.split == Split::Val && entry.degraded.is_some() == pairs);
        let is_open = |entry: &Entry| entry.open && entry.degraded.is_some() == pairs;
        let mut open: Vec<usize> = (0..found.len()).filter(|&index| is_open(&found[index])).collect();
        if has_val || open.len() < 2 || config.data.validation_fraction == 0.0 {
            continue;
        }
        open.shuffle(&mut Pcg64Mcg::seed_from_u64(config.seed));
        let wanted = (open.len() as f64 * config.data.validation_fraction).round() as usize;
        for &index in &open[..wanted.clamp(1, open.len() - 1)] {
            found[index].split = Split::Val;
        }
    }
}

/// Reads the images of one part of the split.
///
/// # Errors
/// Where a file cannot be read, is not of one channel, or does not fit its partner.
pub fn load(entries: &[Entry], split: Split, config: &Config, root: &Path) -> Result<Images> {
    let mut images = Images::default();
    // Clean images are of no use without simulation, and pairs without a share in it; all pairs serve validation.
    let fraction = config.simulate.as_ref().map_or(0.0, |simulate| simulate.fraction);
    let wanted = |entry: &&Entry| match entry.degraded {
        Some(_) => fraction < 1.0 || split != Split::Train,
        None => fraction > 0.0,
    };
    for entry in entries.iter().filter(|entry| entry.split == split).filter(wanted) {
        let name = entry.reference.display().to_string();
        let weight = config.data.folders.get(entry.folder).map_or(1.0, |folder| folder.weight);
        let mut reference = read(&root.join(&entry.reference))?;
        match &entry.degraded {
            Some(degraded) => {
                let mut input = read(&root.join(degraded))?;
                ensure!(
                    input.info.shape == reference.info.shape,
                    "{} and {} differ in shape: {:?} and {:?}",
                    degraded.display(),
                    name,
                    input.info.shape,
                    reference.info.shape
                );
                normalize(&mut input, &config.data)?;
                normalize(&mut reference, &config.data)?;
                if config.data.match_intensity {
                    match_intensity(&mut reference.samples, &input.samples)
                        .with_context(|| format!("matching the intensities of {name}"))?;
                }
                for (plane, (input, target)) in planes(&input).into_iter().zip(planes(&reference)).enumerate() {
                    images.pairs.push(Pair { name: plane_name(&name, plane), weight, input, target });
                }
            }
            None => {
                unit_scale(&mut reference.samples).with_context(|| name.clone())?;
                for (number, plane) in planes(&reference).into_iter().enumerate() {
                    images.clean.push(Clean { name: plane_name(&name, number), weight, plane });
                }
            }
        }
    }
    Ok(images)
}

fn plane_name(file: &str, plane: usize) -> String {
    if plane == 0 { file.to_owned() } else { format!("{file} plane {plane}") }
}

fn read(path: &Path) -> Result<Image> {
    let image = mdr::tiff_io::read_tiff(path)?;
    let channels = image.info.shape.c;
    if channels != 1 {
        bail!("{}: expected 1 channel, found {channels}; save the channels as separate files", path.display());
    }
    if let Some(position) = image.samples.iter().position(|sample| !sample.is_finite()) {
        bail!("{}: sample {position} is {}; expected finite samples", path.display(), image.samples[position]);
    }
    Ok(image)
}

fn normalize(image: &mut Image, settings: &Data) -> Result<()> {
    let fitted = settings.normalization().fit(&mut image.as_source(), 0, &mut || true)?;
    fitted.apply(&mut image.samples);
    Ok(())
}

/// Gain and offset of `reference` fitted to `input` by least squares. Where the fit says that the two have nothing in
/// common (gain not above 0) the reference stays as it is.
///
/// # Errors
/// Where the two differ in length, or a sample is not finite.
pub fn match_intensity(reference: &mut [f32], input: &[f32]) -> Result<()> {
    let fit = metrics::affine_match(reference, input)?;
    if fit.gain > 0.0 {
        reference.iter_mut().for_each(|sample| *sample = (f64::from(*sample) * fit.gain + fit.offset) as f32);
    }
    Ok(())
}

/// 0.1 percentile to 0, 99.9 percentile to 1.
fn unit_scale(samples: &mut [f32]) -> Result<()> {
    let (low, high) = (metrics::percentile(samples, 0.1)?, metrics::percentile(samples, 99.9)?);
    ensure!(high > low, "a constant image teaches nothing; remove it");
    samples.iter_mut().for_each(|sample| *sample = ((f64::from(*sample) - low) / (high - low)) as f32);
    Ok(())
}

fn planes(image: &Image) -> Vec<Plane> {
    let shape = image.info.shape;
    let plane = |samples: &[f32]| Plane { y: shape.y, x: shape.x, samples: samples.to_vec() };
    image.samples.chunks_exact(shape.plane_len().max(1)).map(plane).collect()
}

impl Entry {
    /// Whether the two name the same files for the same purpose.
    pub fn same_images(&self, other: &Self) -> bool {
        (&self.reference, &self.degraded, self.split) == (&other.reference, &other.degraded, other.split)
    }
}
