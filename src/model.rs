//! ONNX file → network plus the facts needed to use it, from its metadata (the keys `mdr.*`). A foreign file
//! without them gets defaults; a file whose metadata contradicts its graph is refused with both values, as one of the
//! two must be wrong and a guess would show as a subtly wrong image.

use crate::network::Network;
use crate::{Error, Normalization, Result, bioimage_io, models};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

/// Version of the metadata keys that this engine reads.
const FORMAT: &str = "1";
/// Largest `mdr.tile_multiple`, and largest least common multiple with that of the graph.
const MAX_MULTIPLE: usize = 1 << 12;
/// Largest model file: protobuf holds no more.
const MAX_FILE_BYTES: u64 = 1 << 31;

/// What a model restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Photon and read-out noise.
    Denoise,
    /// Poor sampling and blur along Z.
    Axial,
    /// Diffraction blur, optionally coarser pixels.
    SuperResolve,
}

impl Task {
    /// All tasks.
    pub const ALL: [Self; 3] = [Self::Denoise, Self::Axial, Self::SuperResolve];

    /// `denoise`, `axial` or `super-resolve`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denoise => "denoise",
            Self::Axial => "axial",
            Self::SuperResolve => "super-resolve",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|t| t.as_str() == text)
            .ok_or_else(|| Error::InvalidOption(format!("task {text:?}: expected denoise, axial or super-resolve")))
    }
}

/// Facts about a model: what its metadata says, and what the graph itself says. Serialises to JSON with the field
/// names as keys.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Name for people; that of the file where the model has none.
    pub name: String,
    /// What it restores, where the model says so.
    pub task: Option<Task>,
    /// Spatial axes of the network: `YX` or `ZYX`.
    pub axes: String,
    /// Channels that the network takes and gives.
    pub channels: usize,
    /// Output pixels per input pixel along each spatial axis.
    pub scale: usize,
    /// How intensities are brought to the scale of the network.
    pub normalization: Normalization,
    /// Of a model for the task axial, the least and the most pixels from one plane to the next that it was trained
    /// with, where it says so.
    pub axial_step: Option<[f64; 2]>,
    /// Sides and positions of tiles must be multiples of this.
    pub tile_multiple: usize,
    /// Sides Y, X (or Z, Y, X) of the only tile that the network takes; `null` where any goes.
    pub fixed_tile: Option<Vec<Option<usize>>>,
    /// Input pixels on either side of a pixel that can change it; `None` where the whole image can.
    pub halo: Option<usize>,
    /// Why the model cannot be tiled, where it cannot.
    pub untileable_because: Option<String>,
    /// What the model is for.
    pub description: String,
    /// Licence of the weights.
    pub license: String,
    /// Who made it.
    pub authors: String,
    /// Images it was trained on.
    pub trained_on: String,
    /// Training method.
    pub method: String,
    /// Commit of the trainer.
    pub commit: String,
    /// Validation figures.
    pub metrics: Option<serde_json::Value>,
    /// The same in words, where they are those of this project: what they are, and a line for each set of images.
    pub scores: Option<String>,
    /// `built-in`, the path, or the name given with the bytes.
    pub source: String,
    /// SHA-256 of the ONNX file, lower-case hexadecimal.
    pub sha256: String,
}

impl Facts {
    /// The facts as JSON, for people and for front ends.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("facts hold nothing that JSON lacks")
    }
}

/// A network and its facts.
///
/// ```no_run
/// # fn main() -> mdr::Result<()> {
/// let model = mdr::Model::load("denoise.onnx".as_ref())?;
/// println!("{} restores {} channel(s)", model.facts().name, model.facts().channels);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Model {
    facts: Facts,
    network: Network,
    /// `mdr.tile_multiple`, or 1.
    stated_multiple: usize,
}

impl Model {
    /// The built-in model for a task.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where there is none.
    pub fn builtin(task: Task) -> Result<Self> {
        let Some(bytes) = models::builtin(task) else {
            let tasks: Vec<_> = models::tasks().map(Task::as_str).collect();
            let there = if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") };
            return Err(Error::InvalidOption(format!(
                "no built-in model for task {task} (built-in: {there}); give a model file instead"
            )));
        };
        let mut model = Self::from_bytes(task.as_str(), bytes)?;
        "built-in".clone_into(&mut model.facts.source);
        Ok(model)
    }

    /// Loads an .onnx file or a bioimage.io package (folder, .zip, rdf.yaml or bioimageio.yaml).
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read; [`Error::BadModel`] as [`Model::from_bytes`], and for a package
    /// with what mdr does not support (named).
    pub fn load(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if path.is_dir() || ["zip", "yaml", "yml"].contains(&extension.as_str()) {
            return bioimage_io::load(path);
        }
        let bytes = read_bounded(path)?;
        if bytes.starts_with(b"PK\x03\x04") {
            return bioimage_io::load(path);
        }
        let name = path.display().to_string();
        let mut model = Self::from_bytes(&name, &bytes)?;
        if !model.network.metadata().contains_key("mdr.name") {
            model.facts.name = stem(path);
        }
        Ok(model)
    }

    /// The model that somebody names: what [`Model::load`] takes, or, where there is no such file, a built-in model by
    /// its task.
    ///
    /// # Errors
    /// As [`Model::load`]; [`Error::InvalidOption`] where the name is neither.
    pub fn named(name: &Path) -> Result<Self> {
        if name.exists() {
            return Self::load(name);
        }
        match name.to_str().and_then(|name| name.parse::<Task>().ok()) {
            Some(task) => Self::builtin(task),
            None => {
                let tasks: Vec<_> = models::tasks().map(Task::as_str).collect();
                let (name, tasks) = (name.display(), tasks.join(", "));
                Err(Error::InvalidOption(format!("{name}: neither a file nor a built-in model ({tasks})")))
            }
        }
    }

    /// An .onnx file in memory; `name` is for messages.
    ///
    /// Keys that the metadata lacks get defaults: no task, percentiles 2 and 99.8, and what the graph says of
    /// channels, axes, scale and tile multiple.
    ///
    /// # Errors
    /// [`Error::BadModel`] where the bytes are no ONNX model that mdr can run on images, and where metadata and graph
    /// contradict each other.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        let network = Network::from_onnx(name, bytes)?;
        let bad = |message: String| Error::BadModel { name: name.to_owned(), message };
        let facts = facts(name, bytes, &network).map_err(bad)?;
        let stated_multiple = network.metadata().get("mdr.tile_multiple").and_then(|v| v.trim().parse().ok());
        Ok(Self { facts, network, stated_multiple: stated_multiple.unwrap_or(1) })
    }

    /// The facts.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The network, to run single tiles: see [`Network::run`].
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Sides and positions of tiles must be multiples of this along Z, Y, X: of the strides, and of
    /// `mdr.tile_multiple` along the spatial axes of the network.
    pub fn multiple(&self) -> [usize; 3] {
        let first = 3 - self.network.spatial_axes();
        let mut multiple = self.network.field().multiple;
        for m in &mut multiple[first..] {
            *m = lcm(*m, self.stated_multiple);
        }
        multiple
    }

    /// Adds a multiple that a package asks for.
    pub(crate) fn require_multiple(&mut self, multiple: usize) -> std::result::Result<(), String> {
        let together = lcm(self.facts.tile_multiple, multiple);
        if together > MAX_MULTIPLE {
            return Err(format!(
                "its description asks for steps of {multiple} pixels, the network for {}; together they ask for tiles \
                 above {MAX_MULTIPLE} pixels",
                self.facts.tile_multiple
            ));
        }
        self.stated_multiple = lcm(self.stated_multiple, multiple);
        self.facts.tile_multiple = together;
        Ok(())
    }

    /// Replaces facts by those of a package around the file.
    pub(crate) fn facts_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }
}

/// The name of a file without folder and extension.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| path.display().to_string(), |s| s.to_string_lossy().into_owned())
}

/// Reads a model file; one that is too large is refused before it is read.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let too_large = |length: u64| {
        let message = format!("{length} bytes; an ONNX file holds at most 2 GiB");
        Error::BadModel { name: path.display().to_string(), message }
    };
    let (file, length) = open_regular(path)?;
    if length > MAX_FILE_BYTES {
        return Err(too_large(length));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // It may grow while it is read.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// Opens a file and gives its length. Devices and pipes are refused before they are opened: they claim a length of 0,
/// never end, or wait for a writer that never comes.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a folder" } else { "a device or pipe" };
        let message = format!("is {what}; expected a regular file");
        return Err(Error::BadModel { name: path.display().to_string(), message });
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    Ok((file, metadata.len()))
}

/// Lower-case hexadecimal SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn facts(name: &str, bytes: &[u8], network: &Network) -> std::result::Result<Facts, String> {
    let metadata = network.metadata();
    let get = |key: &str| metadata.get(&format!("mdr.{key}")).map(|v| v.trim());
    let text = |key: &str| get(key).unwrap_or_default().to_owned();
    if let Some(format) = get("format")
        && format != FORMAT
    {
        return Err(format!("mdr.format is {format:?}; this version of mdr reads {FORMAT:?}: update mdr"));
    }
    let number = |key: &str| match get(key).map(str::parse::<usize>) {
        None => Ok(None),
        Some(Ok(n)) if n > 0 => Ok(Some(n)),
        Some(_) => Err(format!("mdr.{key} is {:?}; expected a whole number above 0", text(key))),
    };

    let axes = if network.spatial_axes() == 2 { "YX" } else { "ZYX" };
    if let Some(stated) = get("axes")
        && stated != axes
    {
        return Err(format!("mdr.axes is {stated:?}, but the network takes {axes:?}"));
    }

    let (channels, out) = network.channels();
    if let Some(stated) = number("channels")?
        && stated != channels
    {
        return Err(format!("mdr.channels is {stated}, but the network takes {channels}"));
    }
    if channels != out {
        return Err(format!(
            "the network makes {out} channels of {channels}; mdr restores images channel by channel and needs as many \
             out as in: export the restored image alone"
        ));
    }

    let field = network.field();
    let spatial = &field.scale[3 - network.spatial_axes()..];
    let scale = spatial[0];
    if spatial.iter().any(|&s| s != scale) {
        return Err(format!("the network scales its axes {axes} by {spatial:?}; expected one scale for all"));
    }
    if let Some(stated) = number("scale")?
        && stated != scale
    {
        return Err(format!("mdr.scale is {stated}, but the network makes {scale} pixels of each along an axis"));
    }

    let graph_multiple = field.multiple.iter().fold(1, |a, &b| lcm(a, b));
    let stated = number("tile_multiple")?.unwrap_or(1);
    if stated > MAX_MULTIPLE || lcm(stated, graph_multiple) > MAX_MULTIPLE {
        return Err(format!(
            "mdr.tile_multiple is {stated}, the strides of the network multiply to {graph_multiple}; together they \
             ask for tiles above {MAX_MULTIPLE} pixels"
        ));
    }
    let tile_multiple = lcm(stated, graph_multiple);
    let fixed = &network.fixed()[3 - network.spatial_axes()..];
    if let Some(side) = fixed.iter().flatten().find(|&&side| side % stated != 0) {
        return Err(format!("mdr.tile_multiple is {stated}, but the network takes sides of {side}"));
    }

    let task = match get("task") {
        None => None,
        Some(task) => {
            Some(task.parse().map_err(|_| format!("mdr.task is {task:?}; expected denoise, axial or super-resolve"))?)
        }
    };
    let normalization = match get("normalization") {
        None => Normalization::Percentile { low: 2.0, high: 99.8 },
        Some(json) => {
            let parsed: Normalization =
                serde_json::from_str(json).map_err(|e| format!("mdr.normalization {json:?}: {e}"))?;
            parsed.check().map_err(|e| format!("mdr.normalization {json:?}: {e}"))?;
            parsed
        }
    };
    let axial_step = match get("axial_step") {
        None | Some("") => None,
        Some(json) => match serde_json::from_str::<[f64; 2]>(json) {
            Ok([least, most]) if 0.0 < least && least <= most => Some([least, most]),
            _ => return Err(format!("mdr.axial_step is {json:?}; expected two numbers above 0, such as [2, 6]")),
        },
    };
    let metrics = match get("metrics") {
        None | Some("") => None,
        Some(json) => Some(serde_json::from_str(json).map_err(|e| format!("mdr.metrics is no JSON: {e}"))?),
    };
    let scores = metrics.as_ref().and_then(scores);
    Ok(Facts {
        name: get("name").filter(|n| !n.is_empty()).unwrap_or(name).to_owned(),
        task,
        axes: axes.to_owned(),
        channels,
        scale,
        normalization,
        axial_step,
        tile_multiple,
        fixed_tile: fixed.iter().any(Option::is_some).then(|| fixed.to_vec()),
        halo: field.halo.map(|h| h.into_iter().max().unwrap_or(0)),
        untileable_because: field.reason.clone(),
        description: text("description"),
        license: text("license"),
        authors: text("authors"),
        trained_on: text("trained_on"),
        method: text("method"),
        commit: text("commit"),
        metrics,
        scores,
        source: name.to_owned(),
        sha256: sha256(bytes),
    })
}

/// The metrics of a model of this project, a line for each set of images.
fn scores(metrics: &serde_json::Value) -> Option<String> {
    let line = |set: &serde_json::Value| {
        let [input, restored] = ["input", "restored"].map(|of| {
            let score = |name: &str| set[of][name].as_f64();
            Some(format!("{:.2} dB / {:.3}", score("psnr_affine")?, score("ssim_affine")?))
        });
        let (data, images) = (set["data"].as_str()?, set["images"].as_u64()?);
        Some(format!("{data} ({images}): {} -> {}", input?, restored?))
    };
    let sets = std::iter::once(metrics).chain(metrics["test"].as_array().into_iter().flatten());
    let lines = sets.map(line).collect::<Option<Vec<_>>>()?;
    Some(format!("affine PSNR / SSIM, input -> restored\n{}", lines.join("\n")))
}

/// Least common multiple.
pub(crate) fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).saturating_mul(b)
}
