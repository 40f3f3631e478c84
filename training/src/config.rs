//! One plain struct per run, read from TOML; the resolved text is copied into the run folder. Every field has its
//! default here, and an unknown name is an error: a typo must not train something else.

use anyhow::{Context, Result, bail, ensure};
use mdr::{Normalization, Task};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::methods::MethodKind;
use crate::nets::{patch_discriminator, vgg16};

/// Everything that decides the result of a run, but the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which method is trained.
    pub method: MethodKind,
    /// What it learns to restore, one task or several that share the network; also the folders below `--data`.
    #[serde(rename = "task", deserialize_with = "one_or_several", serialize_with = "one_if_alone")]
    pub tasks: Vec<Task>,
    /// Seed of initial weights, split, crops, augmentation and noise.
    #[serde(default)]
    pub seed: u64,
    /// A trained model whose weights the run begins with: the name of a task (its built-in model), a .onnx file or a run
    /// folder. The network is then as the model's, whatever `[net]` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The network.
    #[serde(default)]
    pub net: Net,
    /// Images and their normalisation.
    #[serde(default)]
    pub data: Data,
    /// Patches cut from them.
    #[serde(default)]
    pub patches: Patches,
    /// Noise laid over clean images; without this table only real pairs are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulate: Option<Simulate>,
    /// Pairs that a trained CIN-GAN makes out of clean images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
    /// Losses of the cGAN restorer.
    #[serde(default)]
    pub loss: Loss,
    /// Networks and losses of DeblurGAN and CycleGAN.
    #[serde(default)]
    pub gan: Gan,
    /// The loop.
    #[serde(default)]
    pub train: Train,
    /// What is written into the exported model.
    #[serde(default)]
    pub export: Export,
}

/// A U-Net as CARE's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Net {
    /// Times the image is halved.
    pub depth: usize,
    /// Features of the first level; they double with each level ...
    pub features: usize,
    /// ... up to this number, where there is one.
    pub widest: Option<usize>,
    /// Side of the convolution kernels, odd.
    pub kernel: usize,
    /// Whether the network predicts what is to be added to its input.
    pub residual: bool,
}

impl Default for Net {
    fn default() -> Self {
        Self { depth: 2, features: 32, widest: None, kernel: 3, residual: true }
    }
}

/// Images and their normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Folders relative to `--data`, searched at any depth. None: the folder named as the task.
    pub folders: Vec<Folder>,
    /// Percentile of an image that becomes 0.
    pub percentile_low: f64,
    /// Percentile of an image that becomes 1.
    pub percentile_high: f64,
    /// Whether gain and offset of a reference are fitted to its degraded image before it becomes a target. Without it,
    /// [`Data::matches_intensity`] decides by the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_intensity: Option<bool>,
    /// Part of the images without a given split that is kept for validation.
    pub validation_fraction: f64,
    /// How many pairs of each task are trained on: a seeded choice, of which a smaller number is always a part. Without
    /// it, all. The others are not used at all; 0: only images that belong to no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<usize>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            folders: Vec::new(),
            percentile_low: 2.0,
            percentile_high: 99.8,
            match_intensity: None,
            validation_fraction: 0.1,
            pairs: None,
        }
    }
}

impl Data {
    /// The normalisation that the model file names and the engine applies.
    pub fn normalization(&self) -> Normalization {
        Normalization::Percentile { low: self.percentile_low, high: self.percentile_high }
    }

    /// Whether gain and offset of `task`'s references are fitted to their inputs: unless the config says otherwise, for
    /// every task but super-resolution. There the reference has a background of zero where the input has haze, and
    /// a fit would move that zero from image to image.
    pub fn matches_intensity(&self, task: Task) -> bool {
        self.match_intensity.unwrap_or(task != Task::SuperResolve)
    }
}

/// A folder of images and what they are for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// Relative to `--data`.
    pub path: String,
    /// What all its images are for; without it, folders named train, val and test decide, then the seeded split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Which images are taken; without it, all.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub kind: Option<FolderKind>,
    /// The task whose images these are, where a run has several; without it, the task that the path names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// File names without their endings of images that stay out, such as those that a test shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// How often its images are drawn, compared with those of other folders.
    #[serde(default = "one")]
    pub weight: f64,
}

impl Folder {
    /// All images of this kind in a folder.
    pub fn new(path: String, kind: Option<FolderKind>) -> Self {
        Self { path, split: None, kind, task: None, exclude: Vec::new(), weight: 1.0 }
    }
}

fn one() -> f64 {
    1.0
}

/// `task = "denoise"` or `task = ["denoise", "axial"]`.
fn one_or_several<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Task>, D::Error> {
    // serde's untagged enums would not say which word is wrong.
    let task = |value: toml::Value| value.try_into::<Task>().map_err(serde::de::Error::custom);
    match toml::Value::deserialize(deserializer)? {
        toml::Value::Array(tasks) => tasks.into_iter().map(task).collect(),
        alone => Ok(vec![task(alone)?]),
    }
}

fn one_if_alone<S: serde::Serializer>(tasks: &[Task], serializer: S) -> Result<S::Ok, S::Error> {
    match tasks {
        [task] => task.serialize(serializer),
        tasks => tasks.serialize(serializer),
    }
}

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Split {
    Train,
    Val,
    Test,
}

/// Which images of a folder are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FolderKind {
    /// `low/NAME` with `high/NAME`.
    Pairs,
    /// `clean/NAME`.
    Clean,
    /// `degraded/NAME`.
    Degraded,
    /// `clean/NAME` and `degraded/NAME`, which do not belong together.
    Unpaired,
}

/// Patches cut from the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Patches {
    /// Side in pixels.
    pub size: usize,
    /// A patch must hold, in its middle, a sample of the reference above this part of the reference's range
    /// (0: any patch will do). CSBDeep's `no_background_patches`.
    pub foreground: f64,
    /// Random flips and quarter turns.
    pub augment: bool,
    /// Part of the patches of pairs that show two specimens at once, the second one dimmer: light adds up, its noise too,
    /// and references as their images do (compare mixup, Zhang et al. 2018).
    pub superpose: f64,
}

impl Default for Patches {
    fn default() -> Self {
        Self { size: 64, foreground: 0.4, augment: true, superpose: 0.0 }
    }
}

/// Noise over clean images. A range `[a, b]` is drawn from uniformly, where nothing else is said, once per window. In a
/// config file, `like = "FILE"` names another config, relative to that file (`{task}` in it is replaced), whose `[simulate]`
/// holds where this one says nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simulate {
    /// Part of the patches that is simulated; the others come from real pairs, whose references are degraded as clean
    /// images are.
    pub fraction: f64,
    /// Whether optics and camera are measured on the training pairs. What was found replaces the ranges below, in the run
    /// folder's config too. Nothing where nothing is simulated.
    pub calibrate: bool,
    /// Of the simulated windows, the part that shows phantoms instead of clean images.
    pub phantoms: f64,
    /// Side in pixels of the window that is degraded and normalised as a whole, as the engine does with an image.
    pub window: usize,
    /// Patches cut from one window.
    pub patches_per_window: usize,
    /// Magnification, log-uniform; below 1, detail gets finer and the noise of the clean image itself weaker.
    pub zoom: [f64; 2],
    /// Probability of a blur.
    pub blur_probability: f64,
    /// Its sigma in pixels: the band limit of a microscope. The target is blurred too.
    pub blur_sigma: [f64; 2],
    /// Exponent applied to the clean intensities.
    pub gamma: [f64; 2],
    /// Photons per pixel at the bright end (99.9 percentile of the clean image), log-uniform.
    pub photons: [f64; 2],
    /// Background photons, as a part of the photons at the bright end.
    pub background: [f64; 2],
    /// Read noise in electrons.
    pub read_noise: [f64; 2],
    /// Probability of the excess noise of an EMCCD (gamma-distributed gain: twice the photon variance).
    pub emccd_probability: f64,
    /// Probability that the noise is correlated between neighbours (resampling by the camera's or the user's software).
    pub correlated_probability: f64,
    /// Sigma in pixels of the blur that correlates it.
    pub correlated_sigma: [f64; 2],
    /// Probability that the noisy window is scaled min-max to 8 bit.
    pub eight_bit_probability: f64,
    /// Probability that the brightest samples are clipped.
    pub clip_probability: f64,
    /// Percentile at which they are.
    pub clip_percentile: [f64; 2],
    /// Loss of a patch is divided by the range of its window's target to this power (0: no weighting; 1: errors count
    /// relative to the signal, as in PSNR). Normalisation makes the signal of noisy windows small.
    pub weight_by_range: f64,
    /// Windows degraded for validation.
    pub validation_windows: usize,
    /// Optics before the camera: blur and out-of-focus light.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub widefield: Option<Widefield>,
    /// Optics before the camera: a coarse stack seen from the side, Y being Z.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub axial: Option<Axial>,
}

/// Blur and out-of-focus light of a wide-field microscope: G(sigma) + haze·G(haze_sigma). Ranges as in [`Simulate`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Widefield {
    /// Sigma in pixels of what is in focus.
    pub sigma: [f64; 2],
    /// Light from out of focus, as a multiple of that in focus.
    pub haze: [f64; 2],
    /// Its sigma in pixels.
    pub haze_sigma: [f64; 2],
    /// The part of it that comes from another place of the specimen, above or below what is in focus: nothing in focus
    /// tells of it.
    pub elsewhere: [f64; 2],
}

impl Default for Widefield {
    fn default() -> Self {
        Self { sigma: [1.5, 3.5], haze: [0.0, 2.0], haze_sigma: [10.0, 40.0], elsewhere: [0.0; 2] }
    }
}

/// A stack with coarse planes, seen from the side: blurred along Y, which plays the part of Z, few rows kept, linearly
/// interpolated to the old grid after the noise (CARE's way to train from lateral planes). Ranges as in [`Simulate`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Axial {
    /// Pixels from one kept row to the next, log-uniform.
    pub step: [f64; 2],
    /// Sigma of the blur along Y, in units of `step`.
    pub sigma: [f64; 2],
    /// Sigma of the blur along X, in pixels.
    pub lateral_sigma: [f64; 2],
}

impl Default for Axial {
    fn default() -> Self {
        Self { step: [2.0, 6.0], sigma: [0.3, 1.0], lateral_sigma: [0.3, 1.2] }
    }
}

impl Default for Simulate {
    fn default() -> Self {
        Self {
            fraction: 1.0,
            calibrate: false,
            phantoms: 0.0,
            window: 256,
            patches_per_window: 8,
            zoom: [0.6, 1.5],
            blur_probability: 0.5,
            blur_sigma: [0.5, 2.0],
            gamma: [0.7, 1.4],
            photons: [3.0, 1000.0],
            background: [0.0, 0.3],
            read_noise: [0.0, 3.0],
            emccd_probability: 0.2,
            correlated_probability: 0.1,
            correlated_sigma: [0.3, 0.7],
            eight_bit_probability: 0.3,
            clip_probability: 0.1,
            clip_percentile: [99.0, 99.9],
            weight_by_range: 0.5,
            validation_windows: 16,
            widefield: None,
            axial: None,
        }
    }
}

/// Pairs that a trained CIN-GAN (or separate GAN) makes out of clean images and the references of real pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Its run folder.
    pub run: String,
    /// Degraded images of each clean one; a restorer learns the noise of a few by heart. All are kept in memory, with
    /// their references: 8 bytes a pixel.
    #[serde(default = "sixteen")]
    pub samples: usize,
    /// Part of the patches that is synthetic, where there are real pairs too; without these all are.
    #[serde(default = "half")]
    pub fraction: f64,
}

fn sixteen() -> usize {
    16
}

fn half() -> f64 {
    0.5
}

/// Losses of the cGAN restorer: the sum of these terms, each with its factor. What has the factor 0 is not computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Loss {
    /// How a restored pixel is compared with its reference.
    pub pixel: PixelLoss,
    /// Factor of the pixel loss.
    pub lambda_pixel: f64,
    /// Factor of 1 − SSIM.
    pub lambda_ssim: f64,
    /// Factor of what the discriminator thinks of the restored image.
    pub lambda_adversarial: f64,
    /// Factor of the distance in the discriminator's features.
    pub lambda_features: f64,
    /// Factor of the distance in VGG16's features (`gan.vgg16`, `gan.content_layers`).
    pub lambda_content: f64,
    /// Learning rate of the discriminator, as a part of the generator's.
    pub discriminator_rate: f64,
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            pixel: PixelLoss::L1,
            lambda_pixel: 1.0,
            lambda_ssim: 0.0,
            lambda_adversarial: 0.0,
            lambda_features: 0.0,
            lambda_content: 0.0,
            discriminator_rate: 1.0,
        }
    }
}

impl Loss {
    /// Whether a discriminator is trained.
    pub fn is_adversarial(&self) -> bool {
        self.lambda_adversarial > 0.0 || self.lambda_features > 0.0
    }

    fn check(&self, gan: &Gan, patch: usize) -> Result<()> {
        for (name, value) in [
            ("lambda_pixel", self.lambda_pixel),
            ("lambda_ssim", self.lambda_ssim),
            ("lambda_adversarial", self.lambda_adversarial),
            ("lambda_features", self.lambda_features),
            ("lambda_content", self.lambda_content),
            ("discriminator_rate", self.discriminator_rate),
        ] {
            ensure!(value >= 0.0 && value.is_finite(), "loss.{name} = {value}: expected 0 or more");
        }
        if self.is_adversarial() {
            gan.check_discriminator(patch)?;
        }
        ensure!(
            self.lambda_content == 0.0 || gan.vgg16.is_some(),
            "loss.lambda_content needs VGG16's weights: give them with --vgg16 FILE; to make the file: {}",
            vgg16::RECIPE
        );
        Ok(())
    }
}

/// How a restored pixel is compared with its reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelLoss {
    /// Mean absolute error: the median of what is possible.
    L1,
    /// Mean squared error: the mean of what is possible.
    L2,
    /// Logarithm of each patch's mean squared error; about a hundred times as large, in effect, as `L1`.
    Psnr,
}

/// Networks and losses of DeblurGAN and CycleGAN, which share their generator: a ResNet with `net.features` features at
/// full size. The defaults are the papers'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gan {
    /// Residual blocks of the generator.
    pub blocks: usize,
    /// Part of the features dropped in the middle of each block while training (DeblurGAN: 0.5, CycleGAN: 0).
    pub dropout: f64,
    /// Adam's first decay.
    pub beta_1: f64,
    /// DeblurGAN: steps of the critic for each of the generator's.
    pub critic_steps: usize,
    /// DeblurGAN: factor of the gradient penalty.
    pub lambda_penalty: f64,
    /// DeblurGAN: what content is.
    pub content: Content,
    /// DeblurGAN: factor of the content loss.
    pub lambda_content: f64,
    /// VGG16's layers that are compared.
    pub content_layers: Vec<String>,
    /// VGG16's weights (`--vgg16`): a .safetensors file with torchvision's names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vgg16: Option<PathBuf>,
    /// CIN-GAN: factor of the distance of statistics.
    pub lambda_statistics: f64,
    /// CIN-GAN: factor of what the degraded image of a pair holds beside what is foreseen of it.
    pub lambda_pairs: f64,
    /// CycleGAN: factor of the cycle losses.
    pub lambda_cycle: f64,
    /// CycleGAN: factor of the identity losses, as a part of `lambda_cycle`.
    pub lambda_identity: f64,
    /// CycleGAN: results that each discriminator remembers.
    pub pool: usize,
    /// The discriminators, or the critic.
    pub discriminator: patch_discriminator::Settings,
}

impl Default for Gan {
    fn default() -> Self {
        Self {
            blocks: 9,
            dropout: 0.0,
            beta_1: 0.5,
            critic_steps: 5,
            lambda_penalty: 10.0,
            content: Content::Vgg16,
            lambda_content: 100.0,
            content_layers: vec!["relu3_3".into()],
            vgg16: None,
            lambda_statistics: 0.0,
            lambda_pairs: 0.0,
            lambda_cycle: 10.0,
            lambda_identity: 0.5,
            pool: 50,
            discriminator: patch_discriminator::Settings::default(),
        }
    }
}

/// What the content loss compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Features of VGG16 trained on ImageNet, whose weights must be given.
    Vgg16,
    /// Features of the discriminator (Wang et al. 2018). Needs no file.
    Features,
    /// Pixels: mean absolute error, as pix2pix has it. Needs no file.
    Pixel,
}

/// The loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// Steps in all.
    pub steps: u64,
    /// Patches per step.
    pub batch: usize,
    /// Highest learning rate of Adam.
    pub learning_rate: f64,
    /// Learning rate at the end; in between it follows a cosine.
    pub final_learning_rate: f64,
    /// Steps over which the learning rate rises from 0.
    pub warmup: u64,
    /// Decay of the moving average of the weights that validation, export and checkpoint selection use (0: none).
    pub ema: f64,
    /// Of a run that goes on from a base, the part of the base's weights in those that are validated and exported; it
    /// needs `ema`.
    pub keep: f64,
    /// Arithmetic of the convolutions while training.
    pub precision: Precision,
    /// Steps between two validations, each followed by checkpoints.
    pub validate_every: u64,
    /// Validations without a new best after which the run ends (0: it goes on to the last step).
    pub patience: u64,
    /// Steps between two rows of the log.
    pub log_every: u64,
    /// Threads that prepare patches.
    pub loader_threads: usize,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            steps: 5000,
            batch: 16,
            learning_rate: 4e-4,
            final_learning_rate: 1e-6,
            warmup: 0,
            ema: 0.0,
            keep: 0.0,
            precision: Precision::Auto,
            validate_every: 500,
            patience: 0,
            log_every: 50,
            loader_threads: 1,
        }
    }
}

/// Arithmetic of the convolutions while training. Weights, optimiser, loss, validation and export are f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on CUDA, on Intel's processors with AMX, and on AMD's with AVX-512 instructions for it; else f32.
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16: a multiple of the speed where the hardware has it, far slower where it has not.
    Bf16,
}

/// What is written into the exported model for its users.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Export {
    pub name: String,
    pub description: String,
    pub license: String,
    pub authors: String,
    /// Images it was trained on; empty: the folders of the run.
    pub trained_on: String,
}

impl Config {
    /// Reads a TOML file; `overrides` are `KEY=VALUE` with dotted keys, such as `train.steps=100`.
    ///
    /// # Errors
    /// Where the file cannot be read or parsed, and as [`Config::check`].
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let context = || format!("config {}", path.display());
        let text = std::fs::read_to_string(path).with_context(context)?;
        Self::resolved(&text, overrides, path.parent().unwrap_or(Path::new(""))).with_context(context)
    }

    /// As [`Config::load`], from text; other configs that it names are relative to the working directory.
    ///
    /// # Errors
    /// Where it is not TOML, lacks a value or has an unknown one, and as [`Config::check`].
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self> {
        Self::resolved(text, overrides, Path::new(""))
    }

    fn resolved(text: &str, overrides: &[String], folder: &Path) -> Result<Self> {
        let mut config = Self::written(text, overrides, folder)?;
        if let Some(base) = &config.base {
            let stated = std::mem::replace(&mut config.net, crate::base::read(base)?.net);
            if stated != config.net && stated != Net::default() {
                eprintln!("warning: the network is the base's ({:?}), not that of [net]", config.net);
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Reads the config of a run folder, whose `[net]` is that of its base: the base itself need not be there any more.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of_run(path: &Path) -> Result<Self> {
        let context = || format!("config {}", path.display());
        let text = std::fs::read_to_string(path).with_context(context)?;
        let config = Self::written(&text, &[], Path::new("")).with_context(context)?;
        config.check().with_context(context)?;
        Ok(config)
    }

    /// As the text has it, with these changes; `simulate.like` is relative to `folder`.
    fn written(text: &str, overrides: &[String], folder: &Path) -> Result<Self> {
        let mut table: toml::Table = toml::from_str(text)?;
        for entry in overrides {
            let (key, value) = entry.split_once('=').with_context(|| format!("--set {entry}: expected KEY=VALUE"))?;
            // A bare word is a string: `--set train.precision=f32` needs no quotes within quotes.
            let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
                .ok()
                .and_then(|mut table| table.remove("value"))
                .unwrap_or_else(|| toml::Value::String(value.to_owned()));
            let (parents, last) = key.rsplit_once('.').map_or((None, key), |(parents, last)| (Some(parents), last));
            let mut target = &mut table;
            for parent in parents.into_iter().flat_map(|parents| parents.split('.')) {
                let inner = target.entry(parent).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                target = inner.as_table_mut().with_context(|| format!("--set {entry}: {parent} is not a table"))?;
            }
            target.insert(last.to_owned(), value);
        }
        fill_simulation(&mut table, folder)?;
        Ok(table.try_into()?)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// Naming the value, what was expected, and what was found.
    pub fn check(&self) -> Result<()> {
        let several: std::collections::BTreeSet<_> = self.tasks.iter().map(|task| task.as_str()).collect();
        ensure!(
            !self.tasks.is_empty() && several.len() == self.tasks.len(),
            "task: expected one task or several different ones"
        );
        ensure!(
            self.tasks.len() == 1 || self.simulate.is_none(),
            "[simulate] makes images of one task; a run of several ({}) needs images of each",
            several.into_iter().collect::<Vec<_>>().join(", ")
        );
        let Net { depth, features, widest, kernel, .. } = self.net;
        ensure!((1..=6).contains(&depth), "net.depth = {depth}: expected 1 to 6");
        ensure!((1..=512).contains(&features), "net.features = {features}: expected 1 to 512");
        if let Some(widest) = widest {
            let unet = matches!(self.method, MethodKind::Care | MethodKind::Cgan);
            ensure!(unet, "net.widest is of U-Nets; {} would ignore it", self.method.published_name());
            ensure!(widest >= features, "net.widest = {widest}: expected net.features = {features} or more");
        }
        ensure!(kernel % 2 == 1 && kernel <= 15, "net.kernel = {kernel}: expected an odd number up to 15");
        self.data.normalization().check().context("data.percentile_low, data.percentile_high")?;
        part("data.validation_fraction", self.data.validation_fraction)?;
        for folder in &self.data.folders {
            ensure!(folder.weight > 0.0, "data.folders: weight {} of {:?} is not above 0", folder.weight, folder.path);
        }
        let (size, multiple) = (self.patches.size, self.tile_multiple());
        ensure!(
            size >= 8 && size % multiple == 0,
            "patches.size = {size}: expected at least 8, and a multiple of {multiple} (2 to the power of net.depth)"
        );
        match self.method {
            MethodKind::Care => {}
            MethodKind::Cgan => self.loss.check(&self.gan, size)?,
            method => self.gan.check(method, size)?,
        }
        ensure!(
            self.method == MethodKind::Cgan || self.loss == Loss::default(),
            "[loss] is of cgan; {} has losses of its own, and would ignore it",
            self.method.published_name()
        );
        let synthesises = self.method.synthesises();
        for (name, lambda) in [("statistics", self.gan.lambda_statistics), ("pairs", self.gan.lambda_pairs)] {
            let name = format!("gan.lambda_{name}");
            ensure!(synthesises || lambda == 0.0, "{name} is of cin-gan and separate-gan, and would be ignored");
        }
        if let Some(augment) = &self.augment {
            ensure!((1..=1000).contains(&augment.samples), "augment.samples = {}: expected 1 to 1000", augment.samples);
            let fraction = augment.fraction;
            ensure!(0.0 < fraction && fraction < 1.0, "augment.fraction = {fraction}: expected between 0 and 1");
            ensure!(
                self.simulate.as_ref().is_none_or(|simulate| simulate.fraction == 0.0),
                "[augment] and [simulate] both degrade the clean images; choose one, or simulate.fraction = 0"
            );
            ensure!(
                !self.method.unpaired(),
                "[augment] makes pairs, which {} does not use",
                self.method.published_name()
            );
        }
        ensure!(
            self.method != MethodKind::SeparateGan || self.tasks.len() == 1,
            "a separate-gan learns one task; for several in one network there is cin-gan"
        );
        part("patches.foreground", self.patches.foreground)?;
        part("patches.superpose", self.patches.superpose)?;
        ensure!(
            self.patches.superpose == 0.0 || !self.method.unpaired(),
            "patches.superpose is of pairs, which {} does not use",
            self.method.published_name()
        );
        if let Some(simulate) = &self.simulate {
            simulate.check(size)?;
            let used = simulate.fraction > 0.0;
            ensure!(
                self.patches.superpose == 0.0 || simulate.fraction < 1.0,
                "patches.superpose is of pairs, of which simulate.fraction = 1 leaves no patch"
            );
            ensure!(
                !(used && self.method.unpaired()),
                "[simulate] makes pairs, which {} does not use",
                self.method.published_name()
            );
            // Noise alone would train a denoiser that calls itself something else.
            let lacks = match self.tasks[0] {
                Task::Axial => simulate.axial.is_none(),
                Task::SuperResolve => simulate.widefield.is_none(),
                Task::Denoise => false,
            };
            ensure!(
                !(used && lacks) || simulate.calibrate,
                "[simulate] for the task {} needs its optics: [simulate.{}], or simulate.calibrate = true with pairs",
                self.tasks[0],
                if self.tasks[0] == Task::Axial { "axial" } else { "widefield" }
            );
        }
        let Train { steps, batch, learning_rate, final_learning_rate, ema, validate_every, log_every, .. } = self.train;
        ensure!(steps > 0 && batch > 0, "train.steps and train.batch must be above 0");
        ensure!(validate_every > 0 && log_every > 0, "train.validate_every and train.log_every must be above 0");
        ensure!(
            learning_rate > 0.0 && (0.0..=learning_rate).contains(&final_learning_rate),
            "train.learning_rate = {learning_rate} and train.final_learning_rate = {final_learning_rate}: \
             expected the first above 0 and the second from 0 to the first"
        );
        ensure!((0.0..1.0).contains(&ema), "train.ema = {ema}: expected 0 or a decay below 1, such as 0.999");
        let keep = self.train.keep;
        ensure!((0.0..1.0).contains(&keep), "train.keep = {keep}: expected 0 or a part below 1, such as 0.25");
        ensure!(keep == 0.0 || ema > 0.0, "train.keep = {keep} is a part of the averaged weights: it needs train.ema");
        ensure!((1..=64).contains(&self.train.loader_threads), "train.loader_threads: expected 1 to 64");
        Ok(())
    }

    /// The task's place among those of the run.
    ///
    /// # Errors
    /// Where it is not one of them.
    pub fn task_index(&self, task: Task) -> Result<usize> {
        let place = self.tasks.iter().position(|&known| known == task);
        place.with_context(|| format!("task {task} is not one of this run's"))
    }

    /// Part of the base's weights in the result: `train.keep`, where there is a base.
    pub fn kept(&self) -> f64 {
        if self.base.is_some() { self.train.keep } else { 0.0 }
    }

    /// Sides of the network's input must be a multiple of this.
    pub fn tile_multiple(&self) -> usize {
        1 << self.net.depth
    }

    /// The resolved config as TOML.
    ///
    /// # Errors
    /// Never in practice: plain values can always be written.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

/// Where a config's `[simulate]` is to be like that of another one (`simulate.like`), takes from it what is not there.
fn fill_simulation(config: &mut toml::Table, folder: &Path) -> Result<()> {
    let task = match config.get("task") {
        Some(toml::Value::Array(tasks)) => tasks.first().and_then(toml::Value::as_str),
        task => task.and_then(toml::Value::as_str),
    };
    let task = task.unwrap_or_default().to_owned();
    let Some(own) = config.get_mut("simulate").and_then(toml::Value::as_table_mut) else { return Ok(()) };
    let Some(like) = own.remove("like") else { return Ok(()) };
    let like = like.as_str().context("simulate.like: expected the name of a config")?;
    let path = folder.join(like.replace("{task}", &task));
    let context = || format!("simulate.like: {}", path.display());
    let text = std::fs::read_to_string(&path).with_context(context)?;
    let other: toml::Table = toml::from_str(&text).with_context(context)?;
    let other = other.get("simulate").and_then(toml::Value::as_table);
    for (key, value) in other.with_context(|| format!("{}: has no [simulate]", context()))? {
        own.entry(key.clone()).or_insert_with(|| value.clone());
    }
    Ok(())
}

impl Gan {
    fn check_discriminator(&self, patch: usize) -> Result<()> {
        let patch_discriminator::Settings { layers, features, .. } = self.discriminator;
        ensure!((1..=5).contains(&layers), "gan.discriminator.layers = {layers}: expected 1 to 5");
        ensure!((1..=512).contains(&features), "gan.discriminator.features = {features}: expected 1 to 512");
        let least = self.discriminator.least_side();
        ensure!(
            patch >= least && patch.is_multiple_of(4),
            "patches.size = {patch}: expected at least {least} for a discriminator of {layers} layers, and a multiple of 4"
        );
        ensure!((0.0..1.0).contains(&self.beta_1), "gan.beta_1 = {}: expected 0 or a decay below 1", self.beta_1);
        Ok(())
    }

    fn check(&self, method: MethodKind, patch: usize) -> Result<()> {
        self.check_discriminator(patch)?;
        ensure!(self.blocks <= 64, "gan.blocks = {}: expected up to 64", self.blocks);
        ensure!((0.0..0.9).contains(&self.dropout), "gan.dropout = {}: expected 0 to 0.9", self.dropout);
        ensure!((1..=100).contains(&self.critic_steps), "gan.critic_steps = {}: expected 1 to 100", self.critic_steps);
        ensure!((1..=10_000).contains(&self.pool), "gan.pool = {}: expected 1 to 10000", self.pool);
        for (name, lambda) in [
            ("penalty", self.lambda_penalty),
            ("content", self.lambda_content),
            ("statistics", self.lambda_statistics),
            ("pairs", self.lambda_pairs),
            ("cycle", self.lambda_cycle),
            ("identity", self.lambda_identity),
        ] {
            ensure!((0.0..=1e6).contains(&lambda), "gan.lambda_{name} = {lambda}: expected 0 to 1e6");
        }
        ensure!(
            !matches!(method, MethodKind::CinGan | MethodKind::SeparateGan) || self.content != Content::Features,
            "gan.content = \"features\": a discriminator that tells degraded from clean cannot say what they share; choose \
             \"pixel\" or \"vgg16\""
        );
        ensure!(
            method == MethodKind::CycleGan || self.content != Content::Vgg16 || self.vgg16.is_some(),
            "gan.content = \"vgg16\" needs VGG16's weights: give them with --vgg16 FILE, or choose \"features\" or \
             \"pixel\"; to make the file: {}",
            vgg16::RECIPE
        );
        Ok(())
    }

    /// Loads VGG16 for the content loss.
    ///
    /// # Errors
    /// Where there is no file, or not one of VGG16.
    pub fn load_vgg16(&self, device: tch::Device, kind: tch::Kind) -> Result<vgg16::Vgg16> {
        let path = self.vgg16.as_deref().context("VGG16's weights are not given (--vgg16 FILE)")?;
        vgg16::Vgg16::load(path, &self.content_layers, device, kind)
    }
}

impl Simulate {
    fn check(&self, patch: usize) -> Result<()> {
        for (name, value) in [
            ("fraction", self.fraction),
            ("phantoms", self.phantoms),
            ("blur_probability", self.blur_probability),
            ("emccd_probability", self.emccd_probability),
            ("correlated_probability", self.correlated_probability),
            ("eight_bit_probability", self.eight_bit_probability),
            ("clip_probability", self.clip_probability),
            ("weight_by_range", self.weight_by_range),
        ] {
            part(&format!("simulate.{name}"), value)?;
        }
        let widefield = self.widefield.unwrap_or_default();
        let axial = self.axial.unwrap_or_default();
        for (name, [low, high], least, most) in [
            ("widefield.sigma", widefield.sigma, 0.0, 20.0),
            ("widefield.haze", widefield.haze, 0.0, 10.0),
            ("widefield.haze_sigma", widefield.haze_sigma, 0.0, 100.0),
            ("widefield.elsewhere", widefield.elsewhere, 0.0, 1.0),
            ("axial.step", axial.step, 1.0, 16.0),
            ("axial.sigma", axial.sigma, 0.0, 4.0),
            ("axial.lateral_sigma", axial.lateral_sigma, 0.0, 20.0),
            ("zoom", self.zoom, 0.05, 4.0),
            ("blur_sigma", self.blur_sigma, 0.0, 20.0),
            ("gamma", self.gamma, 0.1, 10.0),
            ("photons", self.photons, 0.1, 1e6),
            ("background", self.background, 0.0, 100.0),
            ("read_noise", self.read_noise, 0.0, 1000.0),
            ("correlated_sigma", self.correlated_sigma, 0.0, 20.0),
            ("clip_percentile", self.clip_percentile, 50.0, 100.0),
        ] {
            if !(least <= low && low <= high && high <= most) {
                bail!("simulate.{name} = [{low}, {high}]: expected [a, b] with {least} <= a <= b <= {most}");
            }
        }
        ensure!(
            self.window >= patch && self.window <= 4096,
            "simulate.window = {}: expected patches.size = {patch} to 4096",
            self.window
        );
        ensure!(self.patches_per_window > 0, "simulate.patches_per_window must be above 0");
        Ok(())
    }
}

fn part(name: &str, value: f64) -> Result<()> {
    ensure!((0.0..=1.0).contains(&value), "{name} = {value}: expected 0 to 1");
    Ok(())
}
