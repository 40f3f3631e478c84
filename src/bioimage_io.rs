//! bioimage.io package (spec 0.4 and 0.5: folder, .zip, or its rdf.yaml / bioimageio.yaml) → `Model`. The ONNX
//! weights are loaded as any other file; from the description come the normalisation (its preprocessing), the step
//! of the input's size, and the texts. mdr always gives results on the intensity scale of the image, so it undoes
//! the preprocessing itself: a postprocessing that is exactly this inverse (`scale_linear` after fixed scaling), or
//! changes nothing, is accepted. Any other step is refused by name, because a result without it would be wrong without
//! notice; `scale_mean_variance` too, which gives the result the mean and variance of another tensor.

use crate::model::{lcm, open_regular, read_bounded, sha256, stem};
use crate::{Error, Model, Normalization, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Component, Path, PathBuf};

/// Names of the description, in the order in which they are looked for.
const DESCRIPTIONS: [&str; 2] = ["rdf.yaml", "bioimageio.yaml"];
const MAX_DESCRIPTION_BYTES: u64 = 1 << 20;
const MAX_WEIGHT_BYTES: u64 = 1 << 31;
/// Weights hardly shrink; what grows more than this when unpacked is an attack.
const MAX_RATIO: u64 = 100;

type Check<T> = std::result::Result<T, String>;

/// Loads a package.
///
/// # Errors
/// [`Error::Io`] where a file cannot be read; [`Error::BadModel`] where the description is damaged, names no ONNX
/// weights, or asks for a pre- or postprocessing, axes or inputs that mdr lacks.
pub fn load(path: &Path) -> Result<Model> {
    let bad = |message: String| Error::BadModel { name: path.display().to_string(), message };
    let mut package = Package::open(path)?;
    let text = package.description()?;
    // `y` is an axis, not the boolean of YAML 1.1.
    let options = serde_saphyr::options! { strict_booleans: true };
    let description: Value = serde_saphyr::from_str_with_options(&text, options)
        .map_err(|e| bad(format!("its description is no YAML: {}", first_line(&e))))?;
    let facts = Described::read(&description).map_err(bad)?;
    let onnx = package.file(&facts.weights)?;
    if let Some(expected) = &facts.weights_sha256 {
        let found = sha256(&onnx);
        if !expected.eq_ignore_ascii_case(&found) {
            return Err(bad(format!(
                "sha256 of {} is {found}, its description says {expected}: download the package again",
                facts.weights.display()
            )));
        }
    }
    let mut model = Model::from_bytes(&path.display().to_string(), &onnx)?;
    facts.check(&model).map_err(bad)?;
    facts.apply(&mut model, path).map_err(bad)?;
    Ok(model)
}

/// The first line of an error, which may show the source on further ones.
fn first_line(error: &impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Where the files of a package are.
enum Package {
    Folder { path: PathBuf, folder: PathBuf, description: PathBuf },
    Zip { path: PathBuf, archive: Box<zip::ZipArchive<File>>, folder: String, description: String },
}

impl Package {
    fn open(path: &Path) -> Result<Self> {
        let bad = |message: String| Error::BadModel { name: path.display().to_string(), message };
        let owned = path.to_owned();
        if path.is_dir() {
            let description = DESCRIPTIONS.iter().map(|name| path.join(name)).find(|p| p.is_file());
            let description =
                description.ok_or_else(|| bad("the folder holds neither rdf.yaml nor bioimageio.yaml".into()))?;
            return Ok(Self::Folder { path: owned.clone(), folder: owned, description });
        }
        let (mut file, _) = open_regular(path)?;
        let mut magic = [0; 2];
        let zipped = file.read_exact(&mut magic).is_ok() && &magic == b"PK";
        if !zipped {
            let folder = path.parent().unwrap_or(Path::new("")).to_owned();
            return Ok(Self::Folder { path: owned.clone(), folder, description: owned });
        }
        file.rewind().map_err(|e| Error::io(path, e))?;
        let archive = zip::ZipArchive::new(file).map_err(|e| bad(format!("damaged zip file: {}", first_line(&e))))?;
        // Some tools put the package into a folder of the archive.
        let names: Vec<String> = archive.file_names().filter_map(|n| n.ok().map(|n| n.into_owned())).collect();
        let depth = |name: &String| name.matches('/').count();
        let fits = |name: &&String| DESCRIPTIONS.iter().any(|d| name.rsplit('/').next() == Some(d)) && depth(name) <= 1;
        let description = names.iter().filter(fits).min_by_key(|n| depth(n)).cloned();
        let description =
            description.ok_or_else(|| bad("the zip file holds neither rdf.yaml nor bioimageio.yaml".into()))?;
        let folder = description.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        Ok(Self::Zip { path: owned, archive: Box::new(archive), folder, description })
    }

    fn bad(&self, message: String) -> Error {
        let (Self::Folder { path, .. } | Self::Zip { path, .. }) = self;
        Error::BadModel { name: path.display().to_string(), message }
    }

    fn description(&mut self) -> Result<String> {
        let bytes = match self {
            Self::Folder { description, .. } => {
                let (file, _) = open_regular(description)?;
                let mut bytes = vec![];
                let read = file.take(MAX_DESCRIPTION_BYTES + 1).read_to_end(&mut bytes);
                read.map_err(|e| Error::io(&*description, e))?;
                if bytes.len() as u64 > MAX_DESCRIPTION_BYTES {
                    return Err(self.bad("its description has more than 1 MiB".into()));
                }
                bytes
            }
            Self::Zip { description, .. } => {
                let name = description.clone();
                self.unpack(&name, MAX_DESCRIPTION_BYTES)?
            }
        };
        String::from_utf8(bytes).map_err(|_| self.bad("its description is not UTF-8 text".into()))
    }

    /// A file by its path inside the package.
    fn file(&mut self, name: &Path) -> Result<Vec<u8>> {
        match self {
            Self::Folder { folder, .. } => read_bounded(&folder.join(name)),
            Self::Zip { folder, .. } => {
                let inside: Vec<_> = name.components().map(|c| c.as_os_str().to_string_lossy()).collect();
                let name = format!("{folder}{}", inside.join("/"));
                self.unpack(&name, MAX_WEIGHT_BYTES)
            }
        }
    }

    fn unpack(&mut self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let Self::Zip { archive, .. } = self else { return Err(self.bad(format!("no file {name:?}"))) };
        let unpacked = (|| {
            let entry = archive.by_name(name).map_err(|e| format!("{name:?} in the zip file: {}", first_line(&e)))?;
            let limit = limit.min(entry.compressed_size().saturating_mul(MAX_RATIO).saturating_add(1 << 16));
            let mut bytes = vec![];
            entry
                .take(limit + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| format!("{name:?} in the zip file is damaged: {}", first_line(&e)))?;
            if bytes.len() as u64 > limit {
                return Err(format!("{name:?} in the zip file unpacks to more than {limit} bytes, which is refused"));
            }
            Ok(bytes)
        })();
        unpacked.map_err(|message: String| self.bad(message))
    }
}

/// What the description says.
struct Described {
    weights: PathBuf,
    weights_sha256: Option<String>,
    axes: String,
    normalization: Normalization,
    /// Whether statistics are asked over the channels together.
    channels_together: bool,
    multiple: usize,
    name: Option<String>,
    description: String,
    license: String,
    authors: String,
    trained_on: String,
}

impl Described {
    fn read(rdf: &Value) -> Check<Self> {
        if !rdf.is_object() {
            return Err("its description is no mapping of keys to values".into());
        }
        let version = text(&rdf["format_version"]).unwrap_or_default();
        if !version.starts_with("0.4.") && !version.starts_with("0.5.") {
            return Err(format!("format_version {version:?}; mdr reads bioimage.io's 0.4 and 0.5"));
        }
        if let Some(kind) = text(&rdf["type"])
            && kind != "model"
        {
            return Err(format!("it describes a {kind:?}; expected a model"));
        }
        let (weights, weights_sha256) = weights(&rdf["weights"])?;
        let input = only(&rdf["inputs"], "input")?;
        let output = only(&rdf["outputs"], "output")?;
        let (axes, out_axes) = (self::axes(input)?, self::axes(output)?);
        if !["bcyx", "bczyx"].contains(&axes.as_str()) {
            return Err(format!("its input has the axes {axes:?}; mdr runs networks of bcyx and bczyx"));
        }
        if out_axes != axes {
            return Err(format!("its output has the axes {out_axes:?}, its input {axes:?}; expected the same"));
        }
        let (normalization, channels_together) = preprocessing(input, &axes)?;
        postprocessing(output, &normalization)?;
        let authors = rdf["authors"].as_array().map_or(&[][..], Vec::as_slice);
        let authors: Vec<_> = authors.iter().filter_map(|a| text(&a["name"])).collect();
        let data = &rdf["training_data"];
        Ok(Self {
            weights,
            weights_sha256,
            multiple: multiple(input, &axes)?,
            axes,
            normalization,
            channels_together,
            name: text(&rdf["name"]),
            description: text(&rdf["description"]).unwrap_or_default(),
            license: text(&rdf["license"]).unwrap_or_default(),
            authors: authors.join(", "),
            trained_on: text(&data["name"]).or_else(|| text(&data["id"])).unwrap_or_default(),
        })
    }

    /// Whether description and graph agree.
    fn check(&self, model: &Model) -> Check<()> {
        let facts = model.facts();
        let axes = self.axes[2..].to_ascii_uppercase();
        if axes != facts.axes {
            return Err(format!("its description says axes {:?}, but the network takes {}", self.axes, facts.axes));
        }
        if self.channels_together && facts.channels > 1 {
            return Err(format!(
                "its preprocessing takes statistics over all {} channels together; mdr takes them for each channel",
                facts.channels
            ));
        }
        Ok(())
    }

    fn apply(self, model: &mut Model, path: &Path) -> Check<()> {
        model.require_multiple(self.multiple)?;
        let facts = model.facts_mut();
        facts.normalization = self.normalization;
        facts.name = self.name.unwrap_or_else(|| stem(path));
        for (fact, said) in [
            (&mut facts.description, self.description),
            (&mut facts.license, self.license),
            (&mut facts.authors, self.authors),
            (&mut facts.trained_on, self.trained_on),
        ] {
            if !said.is_empty() {
                *fact = said;
            }
        }
        Ok(())
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The only entry of a list.
fn only<'a>(list: &'a Value, what: &str) -> Check<&'a Value> {
    match list.as_array().map(Vec::as_slice) {
        Some([one]) => Ok(one),
        Some(all) => Err(format!("its description has {} {what}s; mdr runs networks with one", all.len())),
        None => Err(format!("its description lacks {what}s")),
    }
}

fn weights(weights: &Value) -> Check<(PathBuf, Option<String>)> {
    let onnx = &weights["onnx"];
    let Some(source) = text(&onnx["source"]) else {
        let there: Vec<_> = weights.as_object().into_iter().flatten().map(|(kind, _)| kind.as_str()).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        return Err(format!("it has no ONNX weights (weights: {there}); ask its authors for ONNX, or convert them"));
    };
    if source.contains("://") {
        return Err(format!("its weights lie at {source:?}; download the whole package first"));
    }
    let path = PathBuf::from(&source);
    if !path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("its weights lie at {source:?}, outside the package"));
    }
    let path = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    Ok((path, text(&onnx["sha256"])))
}

/// Axes as one letter each, of spec 0.4 (`bcyx`) or 0.5 (a list of mappings).
fn axes(tensor: &Value) -> Check<String> {
    if let Some(axes) = text(&tensor["axes"]) {
        return Ok(axes);
    }
    let Some(list) = tensor["axes"].as_array() else { return Err("an input or output lacks its axes".into()) };
    let letters = list.iter().map(|axis| match (text(&axis["type"]).as_deref(), text(&axis["id"]).as_deref()) {
        (Some("batch"), _) => Ok("b".to_owned()),
        (Some("channel"), _) => Ok("c".to_owned()),
        (Some("space"), Some(id)) if id.len() == 1 => Ok(id.to_owned()),
        (Some("time"), _) => Ok("t".to_owned()),
        (Some("index"), _) => Ok("i".to_owned()),
        (kind, id) => {
            let [kind, id] = [kind, id].map(Option::unwrap_or_default);
            Err(format!("an axis of type {kind:?}, id {id:?} is unknown"))
        }
    });
    letters.collect()
}

/// The step of the spatial sides of the input, where all sides that are allowed are multiples of it.
fn multiple(input: &Value, axes: &str) -> Check<usize> {
    let mut result = 1usize;
    for (place, axis) in axes.chars().enumerate().skip(2) {
        let (min, step) = match input["axes"].as_array() {
            Some(list) => (list[place]["size"]["min"].as_u64(), list[place]["size"]["step"].as_u64()),
            None => (input["shape"]["min"][place].as_u64(), input["shape"]["step"][place].as_u64()),
        };
        let (Some(min), Some(step)) = (min, step) else { continue };
        if step > 1 << 12 {
            return Err(format!("its axis {axis} grows in steps of {step}; expected at most 4096"));
        }
        if step > 1 && min % step == 0 {
            result = lcm(result, step as usize);
        }
    }
    Ok(result)
}

/// Name and arguments of a processing step, of spec 0.4 (`name`) or 0.5 (`id`).
fn steps<'a>(tensor: &'a Value, key: &str) -> Check<Vec<(String, &'a Value)>> {
    let list = match &tensor[key] {
        Value::Null => return Ok(vec![]),
        Value::Array(list) => list,
        _ => return Err(format!("{key} is no list")),
    };
    list.iter()
        .map(|step| match text(&step["id"]).or_else(|| text(&step["name"])) {
            Some(name) => Ok((name, &step["kwargs"])),
            None => Err(format!("a step of {key} has no name")),
        })
        .collect()
}

/// The normalisation of an input of these axes, and whether it takes the channels together.
fn preprocessing(input: &Value, axes: &str) -> Check<(Normalization, bool)> {
    let mut found = None;
    let mut together = false;
    for (name, kwargs) in steps(input, "preprocessing")? {
        let number = |key: &str| kwargs[key].as_f64();
        let unsupported = |why: &str| format!("its preprocessing {name} {why}, which mdr does not support");
        let normalization = match name.as_str() {
            "ensure_dtype" if text(&kwargs["dtype"]).is_none_or(|t| t == "float32") => continue,
            "scale_range" => {
                if !matches!(kwargs["reference_tensor"], Value::Null) && kwargs["reference_tensor"] != input["id"] {
                    return Err(unsupported("refers to another tensor"));
                }
                together |= statistics_axes(kwargs, &axes[2..]).map_err(|why| unsupported(&why))?;
                let low = number("min_percentile").unwrap_or(0.0);
                Normalization::Percentile { low, high: number("max_percentile").unwrap_or(100.0) }
            }
            "zero_mean_unit_variance" if !matches!(text(&kwargs["mode"]).as_deref(), Some("fixed")) => {
                together |= statistics_axes(kwargs, &axes[2..]).map_err(|why| unsupported(&why))?;
                Normalization::MeanStd
            }
            "zero_mean_unit_variance" | "fixed_zero_mean_unit_variance" => match (number("mean"), number("std")) {
                (Some(mean), Some(std)) if std != 0.0 => Normalization::Linear { gain: 1.0 / std, offset: -mean / std },
                _ => return Err(unsupported("has no single mean and std")),
            },
            "scale_linear" => match (single(&kwargs["gain"], 1.0), single(&kwargs["offset"], 0.0)) {
                (Some(gain), Some(offset)) if gain != 0.0 => Normalization::Linear { gain, offset },
                _ => return Err(unsupported("has no single gain and offset")),
            },
            _ => return Err(unsupported("is asked for")),
        };
        normalization.check().map_err(|e| format!("its preprocessing {name}: {e}"))?;
        if found.replace(normalization).is_some() {
            return Err(format!("its preprocessing has several steps, the last {name}; mdr supports one"));
        }
    }
    Ok((found.unwrap_or(Normalization::None), together))
}

/// A number, or a list of one.
fn single(value: &Value, default: f64) -> Option<f64> {
    match value {
        Value::Null => Some(default),
        Value::Array(list) if list.len() == 1 => list[0].as_f64(),
        value => value.as_f64(),
    }
}

/// Whether statistics run over the channels too; they must run over all axes of space.
fn statistics_axes(kwargs: &Value, space: &str) -> Check<bool> {
    let axes: Vec<String> = match &kwargs["axes"] {
        Value::Null => return Ok(true),
        Value::String(axes) => axes.chars().map(String::from).collect(),
        Value::Array(list) => list.iter().filter_map(text).collect(),
        _ => return Err("has odd axes".into()),
    };
    let has = |name: &str| axes.iter().any(|axis| axis == name);
    if !space.chars().all(|axis| has(&axis.to_string())) {
        return Err(format!("takes statistics over {axes:?} instead of the whole image"));
    }
    Ok(has("c") || has("channel"))
}

/// Accepts what mdr does anyway: to bring the result back to the intensities of the image.
fn postprocessing(output: &Value, normalization: &Normalization) -> Check<()> {
    for (name, kwargs) in steps(output, "postprocessing")? {
        let accepted = match (name.as_str(), normalization) {
            ("ensure_dtype", _) => text(&kwargs["dtype"]).is_none_or(|t| t == "float32"),
            ("scale_linear", Normalization::Linear { gain, offset }) => {
                let back = (single(&kwargs["gain"], 1.0), single(&kwargs["offset"], 0.0));
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b.abs().max(1e-4);
                matches!(back, (Some(g), Some(o)) if close(g, 1.0 / gain) && close(o, -offset / gain))
            }
            ("scale_linear", _) => {
                (single(&kwargs["gain"], 1.0), single(&kwargs["offset"], 0.0)) == (Some(1.0), Some(0.0))
            }
            _ => false,
        };
        if !accepted {
            return Err(format!(
                "its postprocessing {name} is not supported: mdr only undoes the preprocessing, which brings the \
                 result back to the intensities of the image; if that is enough, remove {name} from the description"
            ));
        }
    }
    Ok(())
}
