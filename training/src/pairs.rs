//! Folders → images in memory, normalised, each with its part in the split. Pairs are `low/NAME` with `high/NAME`, images
//! that belong to no other `clean/NAME` and `degraded/NAME`, and lateral planes for the task axial also `stack/NAME`, at
//! any depth. The split is by file: folders named train, val and
//! test where they exist, else seeded; planes of one file never end up in different parts. Files are read through the
//! engine, and normalised by it, so that training sees what inference will see.

use crate::config::{Config, Data, Folder, FolderKind, Split};
use anyhow::{Context, Result, bail, ensure};
use mdr::{Image, Task, metrics};
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Index among the config's tasks.
    pub task: usize,
    pub input: Plane,
    pub target: Plane,
}

/// A plane that belongs to no other one. Clean: on the scale 0..1 (0.1 and 99.9 percentile of its file), not clipped.
/// Degraded: on the scale of the network.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Single {
    pub name: String,
    pub weight: f64,
    /// Index among the config's tasks.
    pub task: usize,
    pub plane: Plane,
}

/// The images of one part of the split.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Images {
    pub pairs: Vec<Pair>,
    pub clean: Vec<Single>,
    pub degraded: Vec<Single>,
}

/// One file, or two that belong together, as found; nothing is read yet. What a run folder's split.json lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Path of the clean image, or of the reference of a pair, relative to `--data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<PathBuf>,
    /// Path of the degraded image, alone or of a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<PathBuf>,
    /// What it is for.
    pub split: Split,
    /// Index among the config's tasks.
    #[serde(skip)]
    pub task: usize,
    /// How often it is drawn, compared with others.
    #[serde(skip)]
    weight: f64,
    /// Whether nothing but the seeded choice decides the split.
    #[serde(skip)]
    open: bool,
}

impl Entry {
    /// Path of the image that the entry is named after: the reference, where there is one.
    pub fn path(&self) -> &Path {
        self.reference.as_deref().or(self.degraded.as_deref()).unwrap_or(Path::new(""))
    }

    /// Whether these are two files that belong together.
    pub fn is_pair(&self) -> bool {
        self.reference.is_some() && self.degraded.is_some()
    }

    /// Whether a run reads it: pairs are to validate on always; clean images are to be degraded, or for methods without
    /// pairs, which alone have a use for degraded ones. Those for testing count as if they were for validation.
    pub fn is_used(&self, config: &Config) -> bool {
        let simulate = config.simulate.as_ref().filter(|simulate| simulate.fraction > 0.0);
        let unpaired = config.method.unpaired();
        match (&self.reference, &self.degraded) {
            (Some(_), Some(_)) => {
                self.split != Split::Train || simulate.is_none_or(|it| it.fraction < 1.0 || it.calibrate)
            }
            (Some(_), None) => simulate.is_some() || unpaired || config.augment.is_some(),
            _ => unpaired,
        }
    }

    /// Whether the two name the same files for the same purpose.
    pub fn same_images(&self, other: &Self) -> bool {
        (&self.reference, &self.degraded, self.split) == (&other.reference, &other.degraded, other.split)
    }
}

/// Finds all images that the config names, and splits them.
///
/// # Errors
/// Where a folder is missing or holds no image, or an image of a pair has no partner.
pub fn find(config: &Config, root: &Path) -> Result<Vec<Entry>> {
    let default = |task: &Task| Folder::new(task.to_string(), None);
    let mut folders = config.data.folders.clone();
    if folders.is_empty() {
        folders = config.tasks.iter().map(default).collect();
    }
    let folders = folders.iter().map(|folder| Ok((folder, task_index(folder, config)?))).collect::<Result<Vec<_>>>()?;
    let mut found = search(&folders, &config.tasks, root)?;
    for task in 0..config.tasks.len() {
        split_rest(&mut found, task, config);
    }
    if let Some(count) = config.data.pairs {
        take_pairs(&mut found, count, config.seed);
    }
    Ok(found)
}

/// Index of the task whose images a folder holds: as the config says, as a part of the path says, or the only one.
fn task_index(folder: &Folder, config: &Config) -> Result<usize> {
    let named = || Path::new(&folder.path).iter().find_map(|part| part.to_str()?.parse::<Task>().ok());
    match folder.task.or_else(|| named().filter(|task| config.tasks.contains(task))) {
        Some(task) => config.task_index(task),
        None if config.tasks.len() == 1 => Ok(0),
        None => bail!("data.folders: {:?} names none of the run's tasks; add task = \"...\"", folder.path),
    }
}

/// The pairs at any depth below a folder, in a fixed order.
///
/// # Errors
/// Where there are none, or one lacks its partner.
pub fn below(root: &Path) -> Result<Vec<Entry>> {
    search(&[(&Folder::new(String::new(), Some(FolderKind::Pairs)), 0)], &[], root)
}

/// Finds all images in these folders, each with the index of its task, in a fixed order. Where neither the config nor a
/// folder says what an image is for, it is for training.
fn search(folders: &[(&Folder, usize)], tasks: &[Task], root: &Path) -> Result<Vec<Entry>> {
    let mut found: Vec<Entry> = Vec::new();
    let mut seen = BTreeSet::new();
    for &(folder, task) in folders {
        let base = root.join(&folder.path);
        ensure!(
            base.is_dir(),
            "{}: no such folder; images belong in --data DIR below DIR/TASK, or in the folders of data.folders",
            base.display()
        );
        let before = found.len();
        let mut excluded = BTreeSet::new();
        let mut add = |reference: Option<PathBuf>, degraded: Option<PathBuf>| {
            let relative = |path: PathBuf| path.strip_prefix(root).map(Path::to_owned).unwrap_or(path);
            let (reference, degraded) = (reference.map(relative), degraded.map(relative));
            let entry = Entry { reference, degraded, split: Split::Train, task, weight: folder.weight, open: false };
            let stem = entry.path().file_stem().unwrap_or_default().to_owned();
            if let Some(name) = folder.exclude.iter().find(|name| stem == name.as_str()) {
                excluded.insert(name);
                return;
            }
            if seen.insert(entry.path().to_owned()) {
                let named = folder.split.or_else(|| named_split(entry.path()));
                found.push(Entry { split: named.unwrap_or(Split::Train), open: named.is_none(), ..entry });
            }
        };
        let takes = |kinds: &[FolderKind]| folder.kind.is_none_or(|kind| kinds.contains(&kind));
        let mut directories = vec![base.clone()];
        while let Some(directory) = directories.pop() {
            let (files, inner) = list(&directory)?;
            let role = directory.file_name().unwrap_or_default();
            // Planes of a stack lie across its optical axis: what axial defects are simulated on.
            let clean = role == "clean" || (role == "stack" && tasks.get(task) == Some(&Task::Axial));
            if clean && takes(&[FolderKind::Clean, FolderKind::Unpaired]) {
                files.iter().for_each(|file| add(Some(file.clone()), None));
            }
            if role == "degraded" && takes(&[FolderKind::Degraded, FolderKind::Unpaired]) {
                files.iter().for_each(|file| add(None, Some(file.clone())));
            }
            let high = directory.with_file_name("high");
            if role == "low" && directory != base && high.is_dir() && takes(&[FolderKind::Pairs]) {
                for file in &files {
                    let reference = high.join(file.file_name().unwrap_or_default());
                    ensure!(reference.is_file(), "{} has no partner {}", file.display(), reference.display());
                    add(Some(reference), Some(file.clone()));
                }
            }
            directories.extend(inner.into_iter().rev());
        }
        ensure!(
            found.len() > before,
            "{}: found neither low/NAME.tif with high/NAME.tif nor clean/NAME.tif nor degraded/NAME.tif{}, at any depth",
            base.display(),
            if tasks.get(task) == Some(&Task::Axial) { " nor stack/NAME.tif" } else { "" }
        );
        if let Some(name) = folder.exclude.iter().find(|name| !excluded.contains(name)) {
            bail!("{}: no image {name:?} to exclude", base.display());
        }
    }
    Ok(found)
}

/// Sorted TIFF files, but hidden ones, and folders of a folder.
pub(crate) fn list(directory: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let context = || format!("folder {}", directory.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(context)? {
        paths.push(entry.with_context(context)?.path());
    }
    paths.sort();
    let (inner, files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    // macOS leaves a hidden `._NAME` beside each file that it copies.
    let is_hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let is_tiff = |path: &PathBuf| {
        path.extension().is_some_and(|end| end.eq_ignore_ascii_case("tif") || end.eq_ignore_ascii_case("tiff"))
    };
    Ok((files.into_iter().filter(|path| is_tiff(path) && !is_hidden(path)).collect(), inner))
}

/// What the folders of a path say that an image is for.
pub(crate) fn named_split(path: &Path) -> Option<Split> {
    path.iter().find_map(|part| match part.to_str() {
        Some("train") => Some(Split::Train),
        Some("val") => Some(Split::Val),
        Some("test") => Some(Split::Test),
        _ => None,
    })
}

/// Splits a task's files to which no folder gave a part: of pairs, of clean and of degraded images, unless some are for
/// validation already, a seeded choice is.
fn split_rest(found: &mut [Entry], task: usize, config: &Config) {
    for wanted in [(true, true), (true, false), (false, true)] {
        let is_one =
            |entry: &Entry| entry.task == task && (entry.reference.is_some(), entry.degraded.is_some()) == wanted;
        let has_val = found.iter().any(|entry| entry.split == Split::Val && is_one(entry));
        let mut open: Vec<usize> =
            (0..found.len()).filter(|&index| found[index].open && is_one(&found[index])).collect();
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

/// Leaves `count` training pairs of each task, drawn so that a smaller number is a part of a larger one.
fn take_pairs(found: &mut Vec<Entry>, count: usize, seed: u64) {
    let is_one = |entry: &Entry| entry.split == Split::Train && entry.is_pair();
    let mut order: Vec<usize> = (0..found.len()).filter(|&index| is_one(&found[index])).collect();
    order.shuffle(&mut Pcg64Mcg::seed_from_u64(seed.wrapping_add(1)));
    let mut taken = BTreeMap::new();
    let mut kept = vec![true; found.len()];
    for index in order {
        let taken: &mut usize = taken.entry(found[index].task).or_default();
        kept[index] = *taken < count;
        *taken += 1;
    }
    let mut kept = kept.into_iter();
    found.retain(|_| kept.next() == Some(true));
}

/// Reads the images of one part of the split.
///
/// # Errors
/// Where a file cannot be read, is not of one channel, or does not fit its partner.
pub fn load(entries: &[Entry], split: Split, config: &Config, root: &Path) -> Result<Images> {
    let mut images = Images::default();
    let fraction = config.simulate.as_ref().map_or(0.0, |simulate| simulate.fraction);
    for entry in entries.iter().filter(|entry| entry.split == split && entry.is_used(config)) {
        let name = entry.path().display().to_string();
        let (task, weight) = (entry.task, entry.weight);
        let single = |(number, plane)| Single { name: plane_name(&name, number), weight, task, plane };
        let mut reference = entry.reference.as_ref().map(|path| read(&root.join(path))).transpose()?;
        let mut input = entry.degraded.as_ref().map(|path| read(&root.join(path))).transpose()?;
        for (image, path) in [(&reference, &entry.reference), (&input, &entry.degraded)] {
            if let (Some(image), Some(path)) = (image, path) {
                let varies = image.samples.iter().any(|sample| sample != &image.samples[0]);
                ensure!(varies, "{}: a constant image teaches nothing; remove it", path.display());
            }
        }
        if let Some(input) = &mut input {
            normalize(input, &config.data)?;
        }
        match (&mut reference, input) {
            (Some(reference), Some(input)) => {
                ensure!(
                    input.info.shape == reference.info.shape,
                    "{} and {name} differ in shape: {} and {}",
                    entry.degraded.as_deref().unwrap_or(Path::new("")).display(),
                    sides(&input),
                    sides(reference)
                );
                if fraction > 0.0 && split == Split::Train {
                    let mut clean = reference.clone();
                    unit_scale(&mut clean.samples).with_context(|| name.clone())?;
                    images.clean.extend(planes(&clean).into_iter().enumerate().map(single));
                }
                normalize(reference, &config.data)?;
                if config.data.matches_intensity(config.tasks[task]) {
                    match_intensity(&mut reference.samples, &input.samples)
                        .with_context(|| format!("matching the intensities of {name}"))?;
                }
                for (number, (input, target)) in planes(&input).into_iter().zip(planes(reference)).enumerate() {
                    images.pairs.push(Pair { name: plane_name(&name, number), weight, task, input, target });
                }
            }
            (Some(clean), None) => {
                unit_scale(&mut clean.samples).with_context(|| name.clone())?;
                images.clean.extend(planes(clean).into_iter().enumerate().map(single));
            }
            (None, Some(degraded)) => images.degraded.extend(planes(&degraded).into_iter().enumerate().map(single)),
            (None, None) => {}
        }
    }
    Ok(images)
}

/// A warning where most pairs of a task (its index) look as if their two images were exchanged: what is noisy is rougher
/// than its reference; what is blurred is smoother, unless there is much noise beside.
pub fn exchanged(pairs: &[Pair], index: usize, task: Task) -> Option<String> {
    let (odd_look, odd) = match task {
        Task::Denoise => ("smoother", Ordering::Less),
        Task::Axial | Task::SuperResolve => ("rougher", Ordering::Greater),
    };
    let of_task = pairs.iter().filter(|pair| pair.task == index);
    let looks = of_task.map(|pair| roughness(&pair.input).total_cmp(&roughness(&pair.target)));
    let (count, odd) = looks.fold((0, 0), |(count, sum), look| (count + 1, sum + usize::from(look == odd)));
    (2 * odd > count).then(|| {
        format!(
            "warning: {task}: in {odd} of {count} pairs the degraded image is {odd_look} than its reference; are the \
             folders low (degraded) and high (reference) exchanged?"
        )
    })
}

/// Mean squared difference of neighbours along Y over the variance.
fn roughness(plane: &Plane) -> f64 {
    let (mut sum, mut squares, mut steps) = (0.0, 0.0, 0.0);
    for (place, &sample) in plane.samples.iter().enumerate() {
        let sample = f64::from(sample);
        sum += sample;
        squares += sample * sample;
        if let Some(&next) = plane.samples.get(place + plane.x) {
            steps += (f64::from(next) - sample).powi(2);
        }
    }
    let count = plane.samples.len() as f64;
    steps / (squares - sum * sum / count).max(f64::MIN_POSITIVE)
}

/// For people.
fn sides(image: &Image) -> String {
    let shape = image.info.shape;
    format!("{} planes of {}x{} pixels", shape.planes(), shape.y, shape.x)
}

/// All planes of a file, on the scale of the network.
///
/// # Errors
/// Where it cannot be read, or is not of one channel.
pub fn normalized_planes(path: &Path, settings: &Data) -> Result<Vec<Plane>> {
    let mut image = read(path)?;
    normalize(&mut image, settings)?;
    Ok(planes(&image))
}

/// A plane on the scale of the network: normalised on its own as the engine would.
///
/// # Errors
/// Where a sample is not finite.
pub fn normalized(plane: Plane, settings: &Data) -> Result<Plane> {
    let Plane { y, x, samples } = plane;
    let mut image = Image::from_plane(y, x, samples)?;
    normalize(&mut image, settings)?;
    Ok(Plane { y, x, samples: image.samples })
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
