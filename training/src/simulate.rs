//! Clean images, or phantoms → pairs: `mdr-train simulate`, for training where there are no pairs. A config in physical
//! units says what the microscope does; the manifest beside the pairs repeats each of them.
//!
//! ```text
//! clean, 0..1 → PSF → haze → axial sampling, binning → photons, camera → interpolation back     low
//! clean, 0..1 → the camera's grey values without noise                                          high
//! ```
//!
//! For `denoise`, high is low without its noise: the task undoes nothing else. Where planes are degraded axially, Y plays
//! the part of Z, as in CARE (Weigert et al., Nature Methods 15, 1090 (2018)), and the PSF is summed over the axis that
//! is not there, as if the specimen went on unchanged along it.

use crate::config::Split;
use crate::pairs;
use anyhow::{Context, Result, bail, ensure};
use mdr::simulate::{self, Camera, Phantom, PsfModel, Volume, Voxel};
use mdr::{Image, ImageInfo, PixelType, Shape, Task, metrics, tiff_io};
use rand::RngExt;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How pairs are made. In the tables `psf`, `haze` and `camera` a number may be a range `[low, high]`: each image draws
/// its own, uniformly in the logarithm where both ends are above 0, else uniformly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the pairs are for.
    pub task: Task,
    /// What is degraded at a time; without it, stacks for `axial`, else planes.
    pub from: Option<From>,
    /// Percentiles of a file that become the intensities 0 and 1; what is below 0 then becomes 0.
    #[serde(default = "default_percentiles")]
    pub percentiles: [f64; 2],
    /// Sample type of the files.
    #[serde(default)]
    pub dtype: Dtype,
    /// Whether the camera adds noise; without it, low has its mean.
    #[serde(default = "yes")]
    pub noise: bool,
    /// Voxel size, for files that do not say it, or say it wrongly.
    #[serde(default)]
    pub calibration: Calibration,
    /// The blur; none without this table.
    pub psf: Option<PsfModel>,
    /// Light from out of focus, for planes.
    pub haze: Option<Haze>,
    /// Coarse sampling along Z.
    pub axial: Option<Axial>,
    /// Coarse sampling along Y and X.
    pub lateral: Option<Lateral>,
    /// Photons and electronics.
    #[serde(default)]
    pub camera: Camera,
    /// Sizes of phantoms.
    #[serde(default)]
    pub phantoms: Phantoms,
}

fn default_percentiles() -> [f64; 2] {
    [0.1, 99.9]
}

fn yes() -> bool {
    true
}

/// What is degraded at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// The Z planes of a time point together, with the PSF in three dimensions.
    Stack,
    /// Each plane by itself; for `axial`, Y plays the part of Z.
    Planes,
}

/// Sample type of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Dtype {
    #[default]
    Uint16,
    Float32,
}

/// Voxel size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calibration {
    /// Along Y and X.
    pub pixel_size_um: Option<f64>,
    /// Along Z.
    pub z_step_um: Option<f64>,
}

/// A wide Gaussian of the clean plane that is added to the blurred one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Haze {
    /// Light of the haze as a multiple of the light in focus.
    pub share: f64,
    /// Standard deviation in pixels of the clean image.
    pub sigma_px: f64,
}

/// Coarse sampling along Z.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axial {
    /// One plane is left of so many.
    pub subsample: usize,
    /// Which.
    #[serde(default)]
    pub method: AxialMethod,
    /// Whether low is interpolated back to the planes of high, linearly.
    #[serde(default = "yes")]
    pub interpolate: bool,
    /// Whether the XZ slices are written as the planes of a file (rows Z), as the network sees them, and not the stack.
    #[serde(default)]
    pub slices: bool,
}

/// Which plane is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AxialMethod {
    /// One that was there: the middle one where low is interpolated back, else the first, where high begins too.
    #[default]
    Keep,
    /// Their mean.
    Bin,
}

/// Coarse sampling along Y and X.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lateral {
    /// Pixels of the clean image along each side of a camera pixel. The camera's photons are those of its own pixels.
    pub binning: usize,
    /// Whether low is enlarged back to the grid of high, by linear interpolation.
    #[serde(default)]
    pub same_grid: bool,
}

/// Sizes of phantoms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Phantoms {
    /// Rows and columns.
    pub side: usize,
    /// Planes of a stack.
    pub depth: usize,
    /// What a pixel is taken for, and a z step; `calibration` goes first.
    pub pixel_size_um: f64,
}

impl Default for Phantoms {
    fn default() -> Self {
        Self { side: 256, depth: 48, pixel_size_um: 0.1 }
    }
}

/// A config file: a [`Recipe`] whose ranges are still open, and the seed.
#[derive(Clone, Debug)]
pub struct Config {
    table: toml::Table,
    seed: u64,
}

impl Config {
    /// Reads a config file.
    ///
    /// # Errors
    /// Where it cannot be read, or as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads a config.
    ///
    /// # Errors
    /// Naming an unknown key, or a value that makes no sense at either end of its range.
    pub fn parse(text: &str) -> Result<Self> {
        let mut table: toml::Table = text.parse()?;
        let seed = match table.remove("seed") {
            None => 0,
            Some(seed) => seed.try_into().context("seed: expected a whole number of 0 or more")?,
        };
        let config = Self { table, seed };
        for end in [0, 1] {
            config.resolve(&mut |range| range[end])?.check()?;
        }
        Ok(config)
    }

    /// One recipe, its ranges drawn from `rng`.
    ///
    /// # Errors
    /// None after [`Config::parse`], which has checked the ends.
    fn draw(&self, rng: &mut Pcg64) -> Result<Recipe> {
        self.resolve(&mut |[low, high]| {
            let part: f64 = rng.random();
            if low > 0.0 { (low.ln() + (high / low).ln() * part).exp() } else { low + (high - low) * part }
        })
    }

    fn resolve(&self, choose: &mut dyn FnMut([f64; 2]) -> f64) -> Result<Recipe> {
        let mut table = self.table.clone();
        for name in ["psf", "haze", "camera"] {
            let Some(toml::Value::Table(inner)) = table.get_mut(name) else { continue };
            for (key, value) in inner.iter_mut() {
                let Some(array) = value.as_array() else { continue };
                let number = |v: &toml::Value| v.as_float().or(v.as_integer().map(|i| i as f64));
                match array.iter().map(number).collect::<Option<Vec<_>>>().as_deref() {
                    Some(&[low, high]) if low <= high => *value = choose([low, high]).into(),
                    _ => bail!("{name}.{key} = {value}: expected a number, or [low, high] with low <= high"),
                }
            }
        }
        Ok(table.try_into()?)
    }
}

impl Recipe {
    fn from(&self) -> From {
        self.from.unwrap_or(if self.task == Task::Axial { From::Stack } else { From::Planes })
    }

    fn check(&self) -> Result<()> {
        match self.task {
            Task::Axial => ensure!(self.axial.is_some(), "task axial needs a table [axial] with subsample"),
            Task::SuperResolve => ensure!(self.psf.is_some(), "task super-resolve needs a table [psf]"),
            Task::Denoise => ensure!(self.noise, "task denoise without noise has nothing to restore; set noise = true"),
        }
        let [low, high] = self.percentiles;
        ensure!(0.0 <= low && low < high && high <= 100.0, "percentiles = [{low}, {high}]: expected 0 <= a < b <= 100");
        if let Some(axial) = self.axial {
            ensure!(self.task == Task::Axial, "[axial] belongs to task axial, not {}", self.task);
            ensure!(axial.subsample > 0, "axial.subsample = 0: expected 1 or more");
        }
        if let Some(lateral) = self.lateral {
            ensure!(lateral.binning > 0, "lateral.binning = 0: expected 1 or more");
            ensure!(self.task == Task::SuperResolve, "[lateral] belongs to task super-resolve, not {}", self.task);
        }
        if let Some(haze) = self.haze {
            ensure!(haze.share >= 0.0 && haze.share.is_finite(), "haze.share = {}: expected 0 or more", haze.share);
            ensure!((0.0..=1000.0).contains(&haze.sigma_px), "haze.sigma_px = {}: expected 0 to 1000", haze.sigma_px);
        }
        let sizes = [self.calibration.pixel_size_um, self.calibration.z_step_um, Some(self.phantoms.pixel_size_um)];
        let possible = |size: f64| size > 0.0 && size.is_finite();
        ensure!(sizes.into_iter().flatten().all(possible), "sizes in µm must be above 0, found {sizes:?}");
        let Phantoms { side, depth, .. } = self.phantoms;
        ensure!(
            (8..=4096).contains(&side) && (2..=1024).contains(&depth),
            "phantoms: side {side}, depth {depth}: expected 8 to 4096, 2 to 1024"
        );
        self.camera.expected(&[0.0])?;
        Ok(())
    }
}

/// What a pair is made from.
enum Source {
    File(PathBuf),
    Phantom,
}

/// One pair, as the manifest tells it.
#[derive(Serialize)]
struct Made {
    low: PathBuf,
    high: PathBuf,
    /// Path below `--data`, or what phantom it is.
    source: String,
    /// Number of the random stream: `Pcg64::new(seed, stream)`.
    stream: usize,
    phantom_seed: Option<u64>,
    /// Intensities 0 and 1 were these sample values of the source.
    scale: [f64; 2],
    voxel_um: Option<Voxel>,
    recipe: Recipe,
}

/// Makes pairs from the clean images below `data` and from `phantoms` phantoms, and writes them to
/// `out/TASK/simulated/low` and `high`, behind a folder `train`, `val` or `test` where the source lies in one. Returns
/// the manifest's path. `stop` is asked before each pair.
///
/// # Errors
/// Where there is no clean image, an image is unfit, the target exists, or `stop` said so; nothing is left then.
pub fn simulate(
    config: &Config,
    data: Option<&Path>,
    phantoms: usize,
    out: &Path,
    seed: Option<u64>,
    stop: &dyn Fn() -> bool,
) -> Result<PathBuf> {
    let seed = seed.unwrap_or(config.seed);
    let mut sources = Vec::new();
    if let Some(data) = data {
        sources.extend(find(data)?.into_iter().map(Source::File));
    }
    sources.extend((0..phantoms).map(|_| Source::Phantom));
    ensure!(!sources.is_empty(), "nothing to simulate from: name a folder with --data, or a number with --phantoms");
    let task = config.resolve(&mut |range| range[0])?.task.to_string();
    let parent = out.join(&task);
    let target = parent.join("simulated");
    ensure!(!target.exists(), "{} exists; remove it, or choose another --out", target.display());
    std::fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;
    // Complete or not there: a training run must not find half of it.
    let partial = tempfile::Builder::new().prefix(".simulated-").tempdir_in(out)?;

    let bar = indicatif::ProgressBar::new(sources.len() as u64);
    let mut names = BTreeSet::new();
    let mut made = Vec::new();
    for (stream, source) in sources.iter().enumerate() {
        ensure!(!stop(), "stopped; nothing was written");
        let name = name(source, stream, data);
        ensure!(names.insert(name.clone()), "two sources would become {}; rename one", name.display());
        let context = || match source {
            Source::File(path) => path.display().to_string(),
            Source::Phantom => format!("phantom {stream}"),
        };
        let pair = pair(config, source, data, seed, stream, name).with_context(context)?;
        for (path, image) in [(&pair.1.low, &pair.0[0]), (&pair.1.high, &pair.0[1])] {
            let path = partial.path().join(path);
            std::fs::create_dir_all(path.parent().expect("files lie in folders"))?;
            tiff_io::write_tiff(&path, image, false)?;
        }
        made.push(pair.1);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let manifest = serde_json::json!({
        "program": concat!("mdr-train simulate ", env!("CARGO_PKG_VERSION")),
        "seed": seed,
        "config": config.table,
        "pairs": made,
    });
    std::fs::write(partial.path().join("manifest.json"), serde_json::to_string_pretty(&manifest)?)?;
    let partial = partial.keep();
    #[cfg(unix)]
    {
        // Temporary folders are the user's alone; this one is to be as any other.
        use std::os::unix::fs::PermissionsExt;
        let like = std::fs::metadata(&parent)?.permissions().mode();
        std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(like))?;
    }
    std::fs::rename(&partial, &target).with_context(|| format!("renaming to {}", target.display()))?;
    Ok(target.join("manifest.json"))
}

/// TIFF files in folders named clean or stack at any depth; where there is no such folder, those directly in `data`.
fn find(data: &Path) -> Result<Vec<PathBuf>> {
    ensure!(data.is_dir(), "{}: no such folder (--data)", data.display());
    let (mut found, mut any) = (Vec::new(), false);
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        let (files, inner) = pairs::list(&folder)?;
        if folder.file_name().is_some_and(|name| name == "clean" || name == "stack") {
            any = true;
            found.extend(files);
        }
        folders.extend(inner.into_iter().rev());
    }
    if !any {
        found = pairs::list(data)?.0;
    }
    ensure!(
        !found.is_empty(),
        "{}: no TIFF files in folders named clean or stack, at any depth, nor directly in it; or use --phantoms N",
        data.display()
    );
    Ok(found)
}

/// Where a pair's files go below low and high, its split before: the path of the source, flat.
fn name(source: &Source, stream: usize, data: Option<&Path>) -> PathBuf {
    let Source::File(path) = source else { return format!("phantom_{stream:04}.tif").into() };
    let relative = data.and_then(|data| path.strip_prefix(data).ok()).unwrap_or(path).with_extension("");
    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
    let telling = |part: &&str| !["clean", "stack", "train", "val", "test"].contains(part);
    let (file, folders) = parts.split_last().expect("a file has a name");
    let parts: Vec<&str> = folders.iter().map(AsRef::as_ref).filter(telling).chain([file.as_ref()]).collect();
    format!("{}.tif", parts.join("_")).into()
}

/// Low and high of one source.
fn pair(
    config: &Config,
    source: &Source,
    data: Option<&Path>,
    seed: u64,
    stream: usize,
    name: PathBuf,
) -> Result<([Image; 2], Made)> {
    let mut rng = Pcg64::new(seed.into(), stream as u128);
    let recipe = config.draw(&mut rng)?;
    let phantom_seed: u64 = rng.random();
    let (clean, text, scale) = match source {
        Source::File(path) => {
            let mut image = tiff_io::read_tiff(path)?;
            let scale = unit_scale(&mut image, recipe.percentiles)?;
            (image, relative(path, data).display().to_string(), scale)
        }
        Source::Phantom => {
            let (image, text) = phantom(&recipe, stream, phantom_seed)?;
            (image, text, [0.0, 1.0])
        }
    };
    let scene = Scene::new(&recipe, &clean.info)?;
    let (mut low, mut high) = (Vec::new(), Vec::new());
    for volume in scene.volumes(&clean) {
        let made = scene.degrade(volume, &mut rng)?;
        low.push(made.0);
        high.push(made.1);
    }
    let brightest = high.iter().flat_map(|volume| &volume.samples).copied().fold(0.0, f32::max);
    ensure!(
        recipe.dtype == Dtype::Float32 || brightest <= 65535.0,
        "grey values reach {brightest:.0}, beyond 16 bit; lower camera.gain, or set dtype = \"float32\""
    );
    let images = [scene.image(&low, &clean.info)?, scene.image(&high, &clean.info)?];
    let split = match source {
        Source::File(path) => pairs::named_split(relative(path, data)),
        Source::Phantom => None,
    };
    let folder = split.map_or("", |split| match split {
        Split::Train => "train",
        Split::Val => "val",
        Split::Test => "test",
    });
    let made = Made {
        low: Path::new(folder).join("low").join(&name),
        high: Path::new(folder).join("high").join(&name),
        source: text,
        stream,
        phantom_seed: matches!(source, Source::Phantom).then_some(phantom_seed),
        scale,
        voxel_um: scene.voxel,
        recipe,
    };
    Ok((images, made))
}

fn relative<'a>(path: &'a Path, data: Option<&Path>) -> &'a Path {
    data.and_then(|data| path.strip_prefix(data).ok()).unwrap_or(path)
}

/// The percentiles to 0 and 1, nothing below 0; returns what they were.
fn unit_scale(image: &mut Image, [low, high]: [f64; 2]) -> Result<[f64; 2]> {
    let channels = image.info.shape.c;
    ensure!(channels == 1, "expected 1 channel, found {channels}; save the channels as separate files");
    ensure!(image.samples.iter().all(|s| s.is_finite()), "expected finite samples; replace NaN and infinite ones");
    let (low, high) = (metrics::percentile(&image.samples, low)?, metrics::percentile(&image.samples, high)?);
    ensure!(high > low, "a constant image teaches nothing; remove it");
    image.samples.iter_mut().for_each(|s| *s = ((f64::from(*s) - low) / (high - low)).max(0.0) as f32);
    Ok([low, high])
}

fn phantom(recipe: &Recipe, stream: usize, seed: u64) -> Result<(Image, String)> {
    let Phantoms { side, depth, pixel_size_um } = recipe.phantoms;
    let (mut image, text) = match recipe.from() {
        From::Planes => {
            let kind = Phantom::ALL[stream % Phantom::ALL.len()];
            (simulate::phantom(kind, side, side, seed), format!("phantom: {kind:?}"))
        }
        From::Stack => {
            let volume = simulate::phantom_stack([depth, side, side], seed)?;
            let shape = Shape { z: depth, ..Shape::plane(side, side) };
            (Image::new(ImageInfo::new(shape, PixelType::F32), volume.samples)?, "phantom stack".to_owned())
        }
    };
    image.info.pixel_size_um = Some(pixel_size_um);
    image.info.z_step_um = Some(pixel_size_um);
    Ok((image, text))
}

/// What one image is seen through.
struct Scene<'a> {
    recipe: &'a Recipe,
    psf: Option<Volume>,
    /// Sizes that the PSF was made for.
    voxel: Option<Voxel>,
    pixel_size_um: Option<f64>,
    z_step_um: Option<f64>,
    /// Whether Y plays the part of Z.
    upright: bool,
}

impl<'a> Scene<'a> {
    fn new(recipe: &'a Recipe, info: &ImageInfo) -> Result<Self> {
        let Shape { z, y, x, .. } = info.shape;
        let from = recipe.from();
        let upright = recipe.task == Task::Axial && from == From::Planes;
        if recipe.task == Task::Axial && from == From::Stack {
            ensure!(
                z > 1,
                "one plane only, and axial degrades stacks; set from = \"planes\" to let Y play the part of Z"
            );
        }
        let pixel_size_um = recipe.calibration.pixel_size_um.or(info.pixel_size_um);
        let z_step_um = recipe.calibration.z_step_um.or(info.z_step_um);
        let stack = from == From::Stack && z > 1;
        let voxel = match recipe.psf {
            None | Some(PsfModel::GaussianPx { .. }) => None,
            Some(_) => {
                let hint = "set it in [calibration], or use the PSF model gaussian-px";
                ensure!(
                    info.pixel_size_y_um.is_none() || recipe.calibration.pixel_size_um.is_some(),
                    "pixels are not square; say calibration.pixel_size_um"
                );
                let xy_um = pixel_size_um.with_context(|| format!("the pixel size is not known; {hint}"))?;
                let z_um = match stack {
                    true => z_step_um.with_context(|| format!("the z step is not known; {hint}"))?,
                    false => xy_um,
                };
                Some(Voxel { z_um, xy_um })
            }
        };
        let seen = match (stack, upright) {
            (true, _) => [z, y, x],
            (_, true) => [y, x, x],
            _ => [1, y, x],
        };
        let unit = Voxel { z_um: 1.0, xy_um: 1.0 };
        let mut psf = recipe.psf.map(|model| model.psf(seen, voxel.unwrap_or(unit))).transpose()?;
        if upright {
            psf = psf.map(|psf| simulate::bin(&psf, [1, psf.shape[1], 1])).transpose()?;
            if let Some(psf) = &mut psf {
                let sum: f32 = psf.samples.iter().sum();
                psf.samples.iter_mut().for_each(|sample| *sample /= sum);
            }
        }
        Ok(Self { recipe, psf, voxel, pixel_size_um, z_step_um, upright })
    }

    /// What is degraded at a time, with the axes Z, Y, X.
    fn volumes<'b>(&self, clean: &'b Image) -> impl Iterator<Item = Volume> + 'b {
        let Shape { z, y, x, .. } = clean.info.shape;
        let shape = match (self.recipe.from(), self.upright) {
            (From::Stack, _) => [z, y, x],
            (From::Planes, true) => [y, 1, x],
            (From::Planes, false) => [1, y, x],
        };
        let chunks = clean.samples.chunks_exact(shape.iter().product());
        chunks.map(move |samples| Volume { shape, samples: samples.to_vec() })
    }

    /// Low and high, in grey values.
    fn degrade(&self, mut clean: Volume, rng: &mut Pcg64) -> Result<(Volume, Volume)> {
        let recipe = self.recipe;
        let binning = recipe.lateral.map_or(1, |lateral| lateral.binning);
        clean = whole_bins(clean, binning)?;
        let mut seen = match &self.psf {
            Some(psf) => clean.blurred(psf)?,
            None => clean.clone(),
        };
        if let Some(haze) = recipe.haze {
            let [z, y, x] = clean.shape;
            let (rows, planes) = if self.upright { (z, 1) } else { (y, z) };
            let sigma = (haze.sigma_px, haze.sigma_px);
            for plane in (0..planes).map(|plane| plane * rows * x..(plane + 1) * rows * x) {
                let wide = simulate::gaussian_blur(&clean.samples[plane.clone()], (rows, x), sigma)?;
                seen.samples[plane].iter_mut().zip(wide).for_each(|(seen, wide)| *seen += haze.share as f32 * wide);
            }
        }
        let depth = seen.shape[0];
        let mut first = 0.0;
        if let Some(axial) = recipe.axial {
            let step = axial.subsample;
            ensure!(depth >= 2 * step, "{depth} planes cannot be left one in {step}: fewer than two would remain");
            (seen, first) = match axial.method {
                AxialMethod::Keep => {
                    let first = if axial.interpolate { step / 2 } else { 0 };
                    (simulate::keep_planes(&seen, first, step)?, first as f64)
                }
                AxialMethod::Bin => (simulate::bin(&seen, [step, 1, 1])?, (step - 1) as f64 / 2.0),
            };
        }
        seen = simulate::bin(&seen, [1, binning, binning])?;
        let back = |mut volume: Volume| -> Result<Volume> {
            if let Some(axial) = recipe.axial.filter(|axial| axial.interpolate) {
                volume = simulate::interpolate(&volume, 0, depth, first, axial.subsample as f64)?;
            }
            if recipe.lateral.is_some_and(|lateral| lateral.same_grid) {
                let centre = (binning - 1) as f64 / 2.0;
                for axis in [1, 2] {
                    volume = simulate::interpolate(&volume, axis, clean.shape[axis], centre, binning as f64)?;
                }
            }
            Ok(volume)
        };
        let expected = |volume: &Volume| -> Result<Volume> {
            Ok(Volume { shape: volume.shape, samples: recipe.camera.expected(&volume.samples)? })
        };
        let low = match recipe.noise {
            true => Volume { shape: seen.shape, samples: recipe.camera.capture(&seen.samples, rng.random())? },
            false => expected(&seen)?,
        };
        let high = if recipe.task == Task::Denoise { back(expected(&seen)?)? } else { expected(&clean)? };
        Ok((back(low)?, high))
    }

    /// Volumes as a file: its axes are those of the source, or the planes are XZ slices.
    fn image(&self, volumes: &[Volume], source: &ImageInfo) -> Result<Image> {
        let stack = self.recipe.from() == From::Stack;
        let slices = self.upright || self.recipe.axial.is_some_and(|axial| axial.slices);
        let [z, y, x] = volumes[0].shape;
        let (pages, rows) = if slices { (y, z) } else { (z, y) };
        let pages = if stack { pages } else { source.shape.z };
        let shape = Shape { t: source.shape.t, c: 1, z: pages, y: rows, x };
        let mut samples = Vec::with_capacity(shape.len());
        for volume in volumes {
            if slices {
                for page in 0..y {
                    samples.extend((0..z).flat_map(|row| &volume.samples[(row * y + page) * x..][..x]));
                }
            } else {
                samples.extend_from_slice(&volume.samples);
            }
        }
        let pixel_type = if self.recipe.dtype == Dtype::Uint16 { PixelType::U16 } else { PixelType::F32 };
        let mut info = ImageInfo::new(shape, pixel_type);
        // How much coarser than the source: sides that were cropped or kept differ by less than a bin.
        let coarser = |from: usize, to: usize, step: usize| if 2 * to <= from { step as f64 } else { 1.0 };
        let binning = self.recipe.lateral.map_or(1, |lateral| lateral.binning);
        let lateral = coarser(source.shape.x, x, binning);
        let from_depth = if self.upright { source.shape.y } else { source.shape.z };
        let axial = self.recipe.axial.map_or(1.0, |axial| coarser(from_depth, z, axial.subsample));
        let pixel = self.pixel_size_um.map(|size| size * lateral);
        let height = match self.recipe.calibration.pixel_size_um {
            Some(size) => Some(size * lateral),
            None => source.pixel_height_um().map(|size| size * lateral),
        };
        let step = if stack { self.z_step_um } else { height }.map(|step| step * axial);
        info.pixel_size_um = pixel;
        let rows_um = if slices { step } else { height };
        info.pixel_size_y_um = rows_um.filter(|&rows| pixel.is_some_and(|pixel| (rows / pixel - 1.0).abs() > 1e-9));
        info.z_step_um = match (stack, slices) {
            (true, true) => height,
            (true, false) => step,
            (false, _) => self.z_step_um,
        };
        info.frame_interval_s = source.frame_interval_s;
        info.provenance = format!("simulated by mdr-train {}; see manifest.json", env!("CARGO_PKG_VERSION"));
        Ok(Image::new(info, samples)?)
    }
}

/// Crops what fills no bin at the ends of Y and X.
fn whole_bins(volume: Volume, binning: usize) -> Result<Volume> {
    let [z, y, x] = volume.shape;
    let (rows, columns) = (y / binning * binning, x / binning * binning);
    ensure!(rows > 0 && columns > 0, "{y}x{x} pixels are smaller than one bin of {binning}; lower lateral.binning");
    if (rows, columns) == (y, x) {
        return Ok(volume);
    }
    let line = |plane: usize, row: usize| &volume.samples[(plane * y + row) * x..][..columns];
    let samples = (0..z).flat_map(|plane| (0..rows).flat_map(move |row| line(plane, row))).copied().collect();
    Ok(Volume::new([z, rows, columns], samples)?)
}
