//! Checkpoint → .onnx with everything that inference needs in its metadata, checked against the engine before it gets
//! its name: a model file that mdr runs differently from tch never exists.

use crate::checkpoint;
use crate::config::Config;
use crate::evaluate::Row;
use crate::methods::{Method, MethodKind};
use crate::nets::Net;
use crate::onnx::{Graph, INPUT};
use crate::parity;
use crate::train::{RunFolder, write};
use anyhow::{Context, Result, bail, ensure};
use mdr::Task;
use mdr::metrics::Scores;
use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Device;
use tract_onnx::pb::ModelProto;

/// Exports a run's checkpoint (`best` where there is one, else `last`, unless `checkpoint` names a file), as it is for
/// a task, to `out`, by default model.onnx in the run folder (model-TASK.onnx where the run has several), and writes
/// parity.json beside the run's other files. Gives the file's path.
///
/// # Errors
/// Where the run folder is incomplete, a file cannot be written, or tch and mdr disagree.
pub fn export(run: &RunFolder, task: Task, checkpoint: Option<&Path>, out: Option<&Path>) -> Result<PathBuf> {
    let config = Config::of_run(&run.config())?;
    let task = config.task_index(task)?;
    ensure!(
        !config.method.synthesises(),
        "{} degrades images, mdr restores them: its checkpoints are for mdr-train synthesize and for [augment]",
        config.method.published_name()
    );
    let out = out.map_or_else(|| run.model(&config, task), Path::to_owned);
    ensure!(
        !out.is_dir(),
        "{} is a folder; the model is one file, such as {}",
        out.display(),
        out.join("model.onnx").display()
    );
    let path = match checkpoint {
        Some(path) => path.to_owned(),
        None if run.best().exists() => run.best(),
        None => run.last(),
    };
    // On the CPU: CUDA's convolutions may use TF32, whose rounding the parity check would take for an error.
    let mut method = config.method.build(&config, Device::Cpu);
    checkpoint::load(&path, method.as_mut())?;
    // They are those of the best checkpoint alone.
    let scores = if path == run.best() { std::fs::read_to_string(run.scores(&config, task)).ok() } else { None };
    let bytes = encode(&config, method.as_ref(), task, scores.as_deref());

    let report = parity::compare(method.as_ref(), task, &bytes)?;
    let parity = run.parity(&config, task);
    write(&parity, serde_json::to_string_pretty(&report)?.as_bytes())?;
    if !report.passed {
        bail!(
            "tch and mdr disagree by {:.1e} of the output range, more than {:.0e}; see {}",
            report.worst,
            report.tolerance,
            parity.display()
        );
    }
    write(&out, &bytes).with_context(|| format!("writing {}", out.display()))?;
    Ok(out)
}

/// Adds mean figures on test images, measured by the engine, to the `mdr.metrics` of a model file, under "test"; what
/// was there under the same name of data is replaced.
///
/// # Errors
/// Where the file cannot be read or written, or is not one of mdr's.
pub fn record(model: &Path, data: &str, rows: &[Row]) -> Result<()> {
    let context = || model.display().to_string();
    let mut file = ModelProto::decode(&std::fs::read(model).with_context(context)?[..]).with_context(context)?;
    let entry = file.metadata_props.iter_mut().find(|entry| entry.key == "mdr.metrics");
    let entry = entry.with_context(|| format!("{}: lacks mdr.metrics", context()))?;
    let mut metrics: serde_json::Map<String, Value> = serde_json::from_str(&entry.value).with_context(context)?;
    let mean = |scores: fn(&Row) -> Scores| Scores::mean(&rows.iter().map(scores).collect::<Vec<_>>());
    let figures = serde_json::json!({
        "data": data,
        "images": rows.len(),
        "input": mean(|row| row.input),
        "restored": mean(|row| row.restored),
    });
    let tests = metrics.entry("test").or_insert_with(|| Value::Array(Vec::new()));
    let tests = tests.as_array_mut().with_context(|| format!("{}: mdr.metrics.test is no list", context()))?;
    tests.retain(|test| test["data"] != data);
    tests.push(figures);
    entry.value = Value::Object(metrics).to_string();
    write(model, &file.encode_to_vec())
}

/// The .onnx file of a method's generator, as it is for one of the config's tasks (an index). `scores`: JSON for
/// `mdr.metrics`.
pub fn encode(config: &Config, method: &dyn Method, task: usize, scores: Option<&str>) -> Vec<u8> {
    let mut graph = Graph::default();
    let net = method.generator();
    let result = net.export(&mut graph, task, INPUT);
    graph.finish(&result, net.channels() as i64, &metadata(config, config.tasks[task], net, scores))
}

/// The method as published; a cGAN that no term of the loss gave a discriminator is none.
fn method_name(config: &Config) -> &'static str {
    match config.method {
        MethodKind::Cgan if !config.loss.is_adversarial() => "U-Net (cGAN without its discriminator)",
        method => method.published_name(),
    }
}

/// Where a model's images are, where the config does not say what they are.
pub(crate) fn folders(config: &Config, task: Task) -> String {
    let folders: Vec<&str> = config.data.folders.iter().map(|folder| folder.path.as_str()).collect();
    if folders.is_empty() { task.to_string() } else { folders.join(", ") }
}

/// How a model came to be, where the config does not say what it is for.
fn described(config: &Config, method: &str, task: Task) -> String {
    let base = config.base.as_ref().map_or(String::new(), |base| format!(", going on from {base}"));
    format!("{method} for the task {task}: {} steps, seed {}{base}", config.train.steps, config.seed)
}

/// The table of `mdr.*` keys.
fn metadata(config: &Config, task: Task, net: &dyn Net, scores: Option<&str>) -> BTreeMap<String, String> {
    let export = &config.export;
    let method = method_name(config);
    let or = |text: &str, default: &dyn Fn() -> String| if text.is_empty() { default() } else { text.to_owned() };
    let normalization = serde_json::to_string(&config.data.normalization()).expect("plain numbers are JSON");
    let simulated = config.simulate.as_ref().filter(|simulate| simulate.fraction > 0.0 && !simulate.calibrate);
    let axial = simulated.and_then(|simulate| simulate.axial.as_ref()).filter(|_| task == Task::Axial);
    let entries = [
        ("format", "1".to_owned()),
        ("task", task.to_string()),
        ("axes", "YX".to_owned()),
        ("channels", net.channels().to_string()),
        ("scale", "1".to_owned()),
        ("normalization", normalization),
        ("tile_multiple", net.tile_multiple().to_string()),
        ("name", or(&export.name, &|| format!("{}-{}", config.method.published_name().to_lowercase(), task))),
        ("description", or(&export.description, &|| described(config, method, task))),
        ("license", or(&export.license, &|| "not stated".into())),
        ("authors", or(&export.authors, &|| "not stated".into())),
        ("trained_on", or(&export.trained_on, &|| folders(config, task))),
        ("method", method.to_owned()),
        ("commit", env!("MDR_COMMIT").to_owned()),
        ("metrics", scores.unwrap_or("{}").to_owned()),
    ];
    let step = axial.map(|axial| ("axial_step", format!("{:?}", axial.step)));
    entries.into_iter().chain(step).map(|(key, value)| (format!("mdr.{key}"), value)).collect()
}
