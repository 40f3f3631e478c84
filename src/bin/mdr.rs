//! The command line: arguments → library calls → files and a few lines of text. Public API only.
//!
//! Exit status 0: done; 1: could not, one line on stderr for each reason; 2: wrong usage. The line names the file
//! concerned; of a panic, too, no more than a line is seen unless `MDR_BACKTRACE` is set.

use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use mdr::metrics::{self, Scale, Scores, SsimWindow};
use mdr::montage::{Panel, montage};
use mdr::network::Watch;
use mdr::restore::{caution, output_info, restore_planes};
use mdr::simulate::{Camera, Phantom, phantom};
use mdr::tiff_io::{TiffReader, TiffWriter, read_tiff, write_tiff};
use mdr::{
    Axes, Error, Image, ImageInfo, Model, Normalization, PixelType, PlaneIndex, PlaneSource, Progress, RestoreOptions,
    Result, Shape, Task, models,
};
use std::collections::HashSet;
use std::io::{ErrorKind, IsTerminal, Write};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Restores fluorescence micrographs: noisy, blurred, or coarsely sampled along the axis.
#[derive(Parser)]
#[command(name = "mdr", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Restore TIFF files, or all TIFF files of a folder
    Restore(Restore),
    /// Show what a model is: its task, training, normalisation, field, licence
    Info {
        /// An .onnx file, a bioimage.io package (folder, .zip, rdf.yaml), or the task of a built-in model
        model: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Time every step of the network on an image of this side instead
        #[arg(long, value_name = "SIZE", conflicts_with = "json", value_parser = clap::value_parser!(u16).range(1..=8192))]
        profile: Option<u16>,
        /// Threads to time with
        #[arg(long, requires = "profile", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
        threads: u16,
    },
    /// List the built-in models
    Models,
    /// Compare restored images with references: PSNR, SSIM, NRMSE, plain and after an affine match; each plane is
    /// scaled and scored alone, then the mean is taken
    Evaluate(Evaluate),
    /// Simulate a noisy micrograph, restore it, and show both beside the truth
    Demo {
        /// Folder for the results; files of an earlier demo are replaced
        #[arg(default_value = "mdr-demo")]
        dir: PathBuf,
    },
}

#[derive(clap::Args)]
struct Restore {
    /// TIFF files, and folders of them
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// File to write; a folder where there are several inputs, or where there is such a folder already
    #[arg(short, long)]
    output: PathBuf,
    /// What to restore: denoise, axial or super-resolve, with the built-in model for it [default: what MODEL is
    /// for, or denoise]
    #[arg(long)]
    task: Option<Task>,
    /// Of task axial: the planes are XZ or YZ slices on an isotropic grid, and go through the network as they are
    #[arg(long)]
    slices: bool,
    /// An .onnx file, a bioimage.io package, or the task of a built-in model [default: the built-in model for TASK]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Side of the tiles in pixels; auto: chosen for speed within the memory limit
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = tile)]
    tile: Auto,
    /// Pixels that neighbouring tiles share; auto: what the network's field needs
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = auto)]
    overlap: Auto,
    /// Threads; as many as there are processors unless given
    #[arg(long, value_name = "N", value_parser = above_0::<usize>)]
    threads: Option<usize>,
    /// Bound on the working memory [default: 2048]
    #[arg(long, value_name = "MB", value_parser = above_0::<u64>)]
    memory_limit: Option<u64>,
    /// Round as little as can be, at about half the speed; the default is off by some millionths of the image's range
    #[arg(long)]
    precise: bool,
    /// Mean of the results for the image flipped and turned in eight ways (axial: four): up to some tenths of a dB better,
    /// in as many times the time
    #[arg(long)]
    self_ensemble: bool,
    /// Axes of the pages where the file does not say, out of TCZYX
    #[arg(long, value_name = "TCZYX", value_parser = Axes::parse)]
    axes: Option<Axes>,
    /// Channel to restore, from 0; all unless given
    #[arg(long, value_name = "K")]
    channel: Option<usize>,
    /// Sample type of the result; same: that of the source, rounded and clamped
    #[arg(long, value_enum, default_value_t = Dtype::Float32)]
    dtype: Dtype,
    /// Distance of Z planes in µm, where the file lacks it or is wrong; also what the result says
    #[arg(long, value_name = "µm", value_parser = length, allow_hyphen_values = true)]
    z_step: Option<f64>,
    /// Pixel size in µm, where the file lacks it or is wrong; also what the result says
    #[arg(long, value_name = "µm", value_parser = length, allow_hyphen_values = true)]
    pixel_size: Option<f64>,
    /// Normalisation to use instead of the model's: none, mean-std, or percentile:LOW,HIGH
    #[arg(long, value_name = "KIND", value_parser = normalization)]
    normalization: Option<Normalization>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    /// Leave out files whose result exists, whatever model made it, as of a folder whose run was stopped
    #[arg(long, conflicts_with = "force")]
    skip_existing: bool,
    /// No progress bar, no count of restored files, no word of caution
    #[arg(short, long)]
    quiet: bool,
}

#[derive(clap::Args)]
struct Evaluate {
    /// Restored TIFF file, or a folder of them
    restored: PathBuf,
    /// Reference TIFF file, or a folder with the same file names
    reference: PathBuf,
    /// How the restored image stands to the reference in the plain figures: own: its own percentiles scale it; as-is:
    /// it is on the scale 0..1 already; input: the percentiles of the degraded image (--input) scale it; reference:
    /// it is in the units of the reference
    /// [default: input where --input is given, else own]
    #[arg(long, value_enum)]
    scale: Option<ScaleBy>,
    /// Degraded image or folder, for --scale input
    #[arg(long, required_if_eq("scale", "input"))]
    input: Option<PathBuf>,
    /// Window of SSIM: uniform 7×7 (scikit-image's default) or Wang et al.'s Gaussian
    #[arg(long, value_enum, default_value_t = Ssim::Uniform)]
    ssim: Ssim,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    Float32,
    Same,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScaleBy {
    Own,
    AsIs,
    Input,
    Reference,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ssim {
    Uniform,
    Gaussian,
}

#[derive(Clone, Copy)]
struct Auto(Option<usize>);

fn auto(text: &str) -> std::result::Result<Auto, String> {
    if text == "auto" {
        return Ok(Auto(None));
    }
    text.parse().map(|n| Auto(Some(n))).map_err(|_| "expected auto or a number of pixels".into())
}

fn tile(text: &str) -> std::result::Result<Auto, String> {
    auto(text).ok().filter(|tile| tile.0 != Some(0)).ok_or_else(|| "expected auto or a number of pixels above 0".into())
}

fn above_0<N: FromStr + PartialOrd + From<u8>>(text: &str) -> std::result::Result<N, String> {
    text.parse().ok().filter(|number| *number > N::from(0)).ok_or_else(|| "expected a whole number above 0".into())
}

fn length(text: &str) -> std::result::Result<f64, String> {
    let positive = |length: &f64| length.is_finite() && *length > 0.0;
    text.parse().ok().filter(positive).ok_or_else(|| "expected a length in µm above 0".into())
}

fn normalization(text: &str) -> std::result::Result<Normalization, String> {
    let percentiles = |rest: &str| {
        let (low, high) = rest.split_once(',')?;
        Some(Normalization::Percentile { low: low.trim().parse().ok()?, high: high.trim().parse().ok()? })
    };
    let kind = match text {
        "none" => Some(Normalization::None),
        "mean-std" => Some(Normalization::MeanStd),
        _ => text.strip_prefix("percentile:").and_then(percentiles),
    };
    let kind = kind.ok_or("expected none, mean-std, or percentile:LOW,HIGH such as percentile:2,99.8")?;
    kind.check().map_err(|error| error.to_string())?;
    Ok(kind)
}

/// Tells glibc what to do with the tensors of a tile when they are freed. Under a tight limit they go back to the system
/// at once; otherwise they are kept for the next tile, since the first touch of new memory takes nearly as long as the
/// arithmetic. Left alone glibc does neither well. A library must leave that choice to its host.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_memory(limit_mb: u64) {
    const TIGHT_MB: u64 = 1024;
    let (map_from, keep) = if limit_mb < TIGHT_MB { (4 << 20, 4 << 20) } else { (1 << 30, i32::MAX) };
    // SAFETY: sets numbers inside the allocator, before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, map_from);
        libc::mallopt(libc::M_TRIM_THRESHOLD, keep);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_memory(_: u64) {}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // The engine catches panics of tract and reports them as errors; the hook would report them a second time.
    if std::env::var_os("MDR_BACKTRACE").is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let outcome = catch_unwind(|| match command {
        Command::Restore(arguments) => arguments.run(),
        Command::Info { model, json, profile, threads } => {
            info(&model, json, profile.map(|side| [side, threads].map(usize::from)))
        }
        Command::Models => list_models(),
        Command::Evaluate(arguments) => arguments.run(),
        Command::Demo { dir } => demo(&dir),
    });
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Failure::Reported)) => ExitCode::FAILURE,
        Ok(Err(Failure::Usage(message))) => {
            complain(&message);
            ExitCode::from(2)
        }
        Ok(Err(Failure::Error(message))) => {
            complain(&message);
            ExitCode::FAILURE
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown reason");
            complain(&format!("internal error: {text}; please report it, with what MDR_BACKTRACE=1 shows"));
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    /// Each failure has had its line already.
    Reported,
    Usage(String),
    Error(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error.to_string())
    }
}

type Outcome = std::result::Result<(), Failure>;

/// One line on stderr, which may be closed.
fn complain(message: &str) {
    let line: Vec<_> = message.lines().map(str::trim).collect();
    let _ = writeln!(std::io::stderr(), "mdr: {}", line.join(" "));
}

/// Prints to stdout; a reader that has gone away (`mdr info … | head -1`) is no error.
fn print(text: &str) -> Outcome {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::io("standard output", error).into()),
        _ => Ok(()),
    }
}

/// What went wrong with the first of these files; the message names a file already where it starts with one of them.
fn about(files: &[&Path], error: &Error) -> String {
    let message = error.to_string();
    let named = files.iter().any(|file| message.starts_with(&*file.to_string_lossy()));
    if named { message } else { format!("{}: {message}", files[0].display()) }
}

impl Restore {
    fn run(&self) -> Outcome {
        keep_memory(self.memory_limit.unwrap_or(mdr::restore::DEFAULT_MEMORY_LIMIT_MB));
        let stop = stop_on_ctrl_c();
        let slash =
            self.output.as_os_str().as_encoded_bytes().last().is_some_and(|&end| std::path::is_separator(end.into()));
        let to_folder = self.input.len() > 1 || self.input[0].is_dir() || slash;
        let pairs = self.pairs(to_folder)?;
        let model = match &self.model {
            Some(model) => Model::named(model)?,
            None => Model::builtin(self.task.unwrap_or(Task::Denoise))?,
        };
        if to_folder {
            make_folder(&self.output)?;
        }
        let (mut skipped, mut failed) = (0, 0);
        // Another run may be making results for the same folder.
        let there = |input: &Path, output: &Path| self.skip_existing && output.exists() && !same_file(input, output);
        for (number, (input, output)) in pairs.iter().enumerate() {
            if there(input, output) {
                skipped += 1;
                continue;
            }
            let place = if pairs.len() > 1 { format!(" ({} of {})", number + 1, pairs.len()) } else { String::new() };
            match self.restore_file(&model, input, output, &place, stop) {
                Ok(()) => {}
                Err(Error::Cancelled) => {
                    let at = if pairs.len() > 1 { format!(" at {}{place}", input.display()) } else { String::new() };
                    return Err(Failure::Error(format!("{}{at}", Error::Cancelled)));
                }
                Err(Error::Io { .. }) if there(input, output) => skipped += 1,
                Err(error) => {
                    failed += 1;
                    complain(&about(&[input, output], &error));
                }
            }
        }
        if failed > 0 {
            if pairs.len() > 1 {
                complain(&format!("{failed} of {} files could not be restored", pairs.len()));
            }
            return Err(Failure::Reported);
        }
        if (pairs.len() > 1 || self.input[0].is_dir()) && !self.quiet {
            let restored = pairs.len() - skipped;
            let rest = if skipped > 0 { format!(", {skipped} were there already") } else { String::new() };
            print(&format!("{restored} of {} files restored{rest}\n", pairs.len()))?;
        }
        Ok(())
    }

    /// Every input file with the file it becomes; at least one.
    fn pairs(&self, to_folder: bool) -> std::result::Result<Vec<(PathBuf, PathBuf)>, Failure> {
        let mut inputs = Vec::new();
        for input in &self.input {
            if input.is_dir() { inputs.extend(tiffs_in(input)?) } else { inputs.push(input.clone()) }
        }
        if !to_folder && !self.output.is_dir() {
            if self.output.extension().is_some() && !is_tiff(&self.output) {
                let message = "the result is a TIFF file; expected a name that ends with .tif or .tiff";
                return Err(Failure::Usage(format!("{}: {message}", self.output.display())));
            }
            return Ok(vec![(inputs.remove(0), self.output.clone())]);
        }
        if is_tiff(&self.output) && !self.output.exists() {
            let message = "the results go into a folder; expected the name of one";
            return Err(Failure::Usage(format!("{}: {message}", self.output.display())));
        }
        let mut names = HashSet::new();
        let mut pairs = Vec::new();
        for input in inputs {
            let Some(name) = input.file_name().map(ToOwned::to_owned) else {
                return Err(Failure::Usage(format!("{}: not a file", input.display())));
            };
            if !names.insert(name.clone()) {
                return Err(Failure::Usage(format!(
                    "two inputs are called {}; restore them into two folders",
                    name.display()
                )));
            }
            pairs.push((input, self.output.join(name)));
        }
        Ok(pairs)
    }

    /// `place` says which of several files it is.
    fn restore_file(&self, model: &Model, input: &Path, output: &Path, place: &str, stop: &AtomicBool) -> Result<()> {
        let options = RestoreOptions {
            tile: self.tile.0,
            overlap: self.overlap.0,
            threads: self.threads,
            memory_limit_mb: self.memory_limit,
            precise: self.precise,
            self_ensemble: self.self_ensemble,
            channel: self.channel,
            pixel_size_um: self.pixel_size,
            z_step_um: self.z_step,
            normalization: self.normalization,
            fitted: None,
            task: self.task,
            slices: self.slices,
        };
        let mut source = TiffReader::open(input, self.axes.as_ref())?;
        let mut info = output_info(model, source.info(), &options)?;
        if let Dtype::Same = self.dtype {
            info.pixel_type = source.info().pixel_type;
        }
        if same_file(input, output) {
            return Err(Error::InvalidOption(
                "the output is the input, which a restoration must not replace; choose another name or folder".into(),
            ));
        }
        let caution = caution(model, source.info(), &options).filter(|_| !self.quiet);
        let mut sink = TiffWriter::create(output, &info, self.force)?;
        let bar = self.progress_bar(input, place, info.shape.len());
        let outcome = restore_planes(model, &mut source, &mut sink, &options, &mut |progress: Progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.set_prefix(format!("{}/{}", progress.done / Watch::TILE, progress.total / Watch::TILE));
            !stop.load(Ordering::Relaxed)
        });
        bar.finish_and_clear();
        outcome?;
        sink.finish()?;
        if let Some(caution) = caution {
            complain(&format!("{}: {caution}", output.display()));
        }
        Ok(())
    }

    /// For a result of so many pixels.
    fn progress_bar(&self, input: &Path, place: &str, pixels: usize) -> ProgressBar {
        let hidden = self.quiet || !std::io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let rate = move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let part = state.per_sec() / state.len().unwrap_or(1).max(1) as f64;
            // Text in memory takes every byte.
            let _ = write!(text, "{:.2}", part * pixels as f64 / 1e6);
        };
        let style = ProgressStyle::with_template("{msg} [{bar:32}] {prefix} tiles, {rate} Mpixel/s, {eta} left")
            .expect("the template is a constant")
            .with_key("rate", rate);
        let name = format!("{}{place}", input.file_name().unwrap_or_default().display());
        ProgressBar::with_draw_target(None, target).with_style(style).with_message(name)
    }
}

/// Set by Ctrl-C (and SIGTERM): the run ends soon and takes its temporary file with it.
fn stop_on_ctrl_c() -> &'static AtomicBool {
    static STOP: AtomicBool = AtomicBool::new(false);
    // Without a handler Ctrl-C still ends the program, leaving a temporary file behind at worst.
    let _ = ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed));
    &STOP
}

/// Whether both are there and are one, also by way of links.
fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Makes a folder for results where there is none.
fn make_folder(folder: &Path) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        return Err(Error::InvalidOption(format!(
            "{}: is a file; expected a folder for the results",
            folder.display()
        )));
    }
    std::fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))
}

/// By the end of its name.
fn is_tiff(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("tif") || end.eq_ignore_ascii_case("tiff"))
}

/// The TIFF files of a folder, by name; at least one.
fn tiffs_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::io(folder, source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        // A link that leads nowhere counts, and fails with its name.
        if is_tiff(&path) && !hidden && (path.is_file() || !path.exists()) {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::InvalidOption(format!("{}: no .tif or .tiff file in this folder", folder.display())));
    }
    files.sort();
    Ok(files)
}

fn info(model: &Path, json: bool, timing: Option<[usize; 2]>) -> Outcome {
    let model = Model::named(model)?;
    if let Some([side, threads]) = timing {
        return profile(&model, side, threads);
    }
    let facts = serde_json::to_value(model.facts()).expect("facts are plain data");
    if json {
        return print(&format!("{facts:#}\n"));
    }
    let mut text = String::new();
    for (key, value) in facts.as_object().expect("a struct is an object") {
        let value = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(value) if value.is_empty() => continue,
            serde_json::Value::String(value) => value.clone(),
            // In words they follow.
            _ if key == "metrics" && model.facts().scores.is_some() => continue,
            other => other.to_string(),
        };
        let value = value.replace('\n', &format!("\n{:22}", ""));
        text += &format!("{:22}{value}\n", key.replace('_', " "));
    }
    print(&text)
}

/// Milliseconds, share and nanoseconds per pixel of every step.
fn profile(model: &Model, side: usize, threads: usize) -> Outcome {
    let steps = model.network().profile([1, side, side], threads)?;
    let total: u64 = steps.iter().map(|(_, spent)| spent).sum();
    let line = |name: &str, spent: u64| {
        let (spent, share) = (spent as f64, 100.0 * spent as f64 / total.max(1) as f64);
        format!("{:9.2} ms {share:5.1} % {:8.2} ns/pixel  {name}\n", spent / 1e6, spent / (side * side) as f64)
    };
    let mut text: String = steps.iter().map(|(name, spent)| line(name, *spent)).collect();
    text += &line("all", total);
    print(&text)
}

fn list_models() -> Outcome {
    for task in models::tasks() {
        let model = Model::builtin(task)?;
        let facts = model.facts();
        print(&format!("{:14}{}: {}\n", task.to_string(), facts.name, facts.description))?;
    }
    Ok(())
}

impl Evaluate {
    fn run(&self) -> Outcome {
        let folders = self.restored.is_dir();
        if folders != self.reference.is_dir() {
            return Err(Failure::Usage("RESTORED and REFERENCE: expected two files or two folders".into()));
        }
        let names: Vec<PathBuf> = if folders {
            let named = |path: PathBuf| PathBuf::from(path.file_name().expect("files of a folder have names"));
            tiffs_in(&self.reference)?.into_iter().map(named).collect()
        } else {
            vec![PathBuf::new()]
        };
        let at = |place: &Path, name: &Path| if folders { place.join(name) } else { place.to_owned() };
        let mut all = Vec::new();
        for name in &names {
            let input = self.input.as_deref().map(|input| at(input, name));
            let (restored, reference) = (at(&self.restored, name), at(&self.reference, name));
            let scores = self.compare(&restored, &reference, input.as_deref()).map_err(|error| {
                let files = [&*restored, &*reference].into_iter().chain(input.as_deref()).collect::<Vec<_>>();
                Failure::Error(about(&files, &error))
            })?;
            let name = if folders { name.display().to_string() } else { self.restored.display().to_string() };
            all.push((name, scores));
        }
        let mean =
            Scores::mean(&all.iter().map(|(_, scores)| *scores).collect::<Vec<_>>()).expect("at least one image");
        if self.json {
            let images: serde_json::Map<_, _> =
                all.into_iter().map(|(name, scores)| (name, serde_json::json!(scores))).collect();
            return print(&format!("{:#}\n", serde_json::json!({"images": images, "mean": mean})));
        }
        let mut text = table_head();
        if folders {
            all.iter().for_each(|(name, scores)| text += &table_row(name, scores));
            text += &table_row(&format!("mean of {}", all.len()), &mean);
        } else {
            text += &table_row(&all[0].0, &mean);
        }
        print(&text)
    }

    /// Mean over the planes.
    fn compare(&self, restored: &Path, reference: &Path, input: Option<&Path>) -> Result<Scores> {
        let image = read_tiff(restored)?;
        let reference_image = read_tiff(reference)?;
        let input = input.map(|path| Ok((path, read_tiff(path)?))).transpose()?;
        for (path, other) in std::iter::once((reference, &reference_image)).chain(input.as_ref().map(|(p, i)| (*p, i)))
        {
            if other.info.shape != image.info.shape {
                let sides = |Shape { t, c, z, y, x }: Shape| format!("{t} x {c} x {z} x {y} x {x} (T, C, Z, Y, X)");
                return Err(Error::ShapeMismatch {
                    expected: format!("the shape of {}, {}", path.display(), sides(other.info.shape)),
                    found: sides(image.info.shape),
                });
            }
        }
        let window = match self.ssim {
            Ssim::Uniform => SsimWindow::Uniform,
            Ssim::Gaussian => SsimWindow::Gaussian,
        };
        let shape = image.info.shape;
        let len = shape.plane_len();
        let mut planes = Vec::new();
        for (i, plane) in image.samples.chunks(len).enumerate() {
            let range = i * len..(i + 1) * len;
            let scale = match (self.scale, &input) {
                (Some(ScaleBy::AsIs), _) => Scale::AsIs,
                (Some(ScaleBy::Reference), _) => Scale::Reference,
                (None | Some(ScaleBy::Input), Some((_, input))) => Scale::Input(&input.samples[range.clone()]),
                _ => Scale::Own,
            };
            planes.push(metrics::evaluate(plane, &reference_image.samples[range], (shape.y, shape.x), scale, window)?);
        }
        Ok(Scores::mean(&planes).expect("an image has a plane"))
    }
}

fn table_head() -> String {
    format!(
        "{:28} {:>8} {:>8} {:>8} {:>12} {:>12} {:>12}\n",
        "", "PSNR", "SSIM", "NRMSE", "PSNR affine", "SSIM affine", "NRMSE affine"
    )
}

fn table_row(name: &str, scores: &Scores) -> String {
    format!(
        "{name:28} {:8.2} {:8.3} {:8.4} {:12.2} {:12.3} {:12.4}\n",
        scores.psnr, scores.ssim, scores.nrmse, scores.psnr_affine, scores.ssim_affine, scores.nrmse_affine
    )
}

/// Side of the demo's micrograph, and the seed that everybody's demo starts from.
const DEMO_SIDE: usize = 512;
const DEMO_SEED: u64 = 7;

fn demo(dir: &Path) -> Outcome {
    let stop = stop_on_ctrl_c();
    make_folder(dir)?;
    let specimen = phantom(Phantom::Mixed, DEMO_SIDE, DEMO_SIDE, DEMO_SEED);
    let camera = Camera { photons: 25.0, background: 2.0, ..Camera::default() };
    let captured =
        |samples: Vec<f32>| Image::new(ImageInfo { pixel_type: PixelType::U16, ..specimen.info.clone() }, samples);
    let degraded = captured(camera.capture(&specimen.samples, DEMO_SEED)?)?;
    let reference = Image::from_plane(DEMO_SIDE, DEMO_SIDE, camera.expected(&specimen.samples)?)?;
    let model = Model::builtin(Task::Denoise)?;
    let started = std::time::Instant::now();
    let restored = mdr::restore(&model, &degraded, &RestoreOptions::default(), &mut |_| !stop.load(Ordering::Relaxed))?;
    let seconds = started.elapsed().as_secs_f64();

    for (name, image) in [("degraded", &degraded), ("restored", &restored), ("reference", &reference)] {
        write_tiff(dir.join(format!("{name}.tif")), image, true)?;
    }
    let range = |percent| metrics::percentile(&reference.samples, percent).map(|value| value as f32);
    let display = (range(0.5)?, range(99.9)?);
    let row = [("degraded", &degraded), ("restored", &restored), ("reference", &reference)].map(|(caption, image)| {
        Panel { samples: &image.samples, shape: (DEMO_SIDE, DEMO_SIDE), display, caption: caption.into() }
    });
    montage(&[&row], dir.join("montage.png"))?;

    let whole = PlaneIndex { t: 0, c: 0, z: 0 };
    let score = |image: &Image| {
        let side = (DEMO_SIDE, DEMO_SIDE);
        metrics::evaluate(image.plane(whole), reference.plane(whole), side, Scale::Reference, SsimWindow::Uniform)
    };
    let mut text = format!(
        "A simulated micrograph of {DEMO_SIDE}×{DEMO_SIDE} pixels with simulated photon and camera noise,\n\
         restored with the built-in model {} in {seconds:.2} s.\n\n",
        model.facts().name
    );
    text += &table_head();
    text += &table_row("degraded", &score(&degraded)?);
    text += &table_row("restored", &score(&restored)?);
    text += &format!(
        "\n{}: montage.png (degraded | restored | reference), degraded.tif, restored.tif, reference.tif\n",
        dir.display()
    );
    print(&text)
}
