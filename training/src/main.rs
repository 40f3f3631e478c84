//! The command line of mdr-train: options in, exit status out; the work is done by the library.

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use mdr_train::{benchmark, config::Config, evaluate, export, report, simulate, synthesize, train};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Device;

/// Trains, exports and evaluates the models that mdr runs.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trains a model into a run folder, and exports it.
    Train(Train),
    /// Goes on from a trained model with one's own images: as train, beginning with the weights of a built-in model.
    Finetune(Finetune),
    /// Degrades clean images with a trained CIN-GAN, and shows how like real ones they are.
    Synthesize(Synthesize),
    /// Writes the .onnx file of a run, after checking that mdr computes the same as tch.
    Export(Export),
    /// Restores pairs with a model file through the engine, and prints PSNR and SSIM of input and result.
    Evaluate(Evaluate),
    /// Makes pairs from clean images or phantoms: blur, sampling, photons, camera.
    Simulate(Simulate),
    /// Trains and scores a table of methods, tasks, numbers of pairs and seeds; goes on where it was stopped.
    Benchmark(Benchmark),
}

#[derive(Args)]
struct Benchmark {
    /// The table (TOML).
    #[arg(long)]
    config: PathBuf,
    /// Folder that holds TASK/train, val and test for each task.
    #[arg(long)]
    data: PathBuf,
    /// Folder for results.json, report.html and a run folder for each cell.
    #[arg(long)]
    out: PathBuf,
    /// Only the group with this label, and what it needs; may be repeated.
    #[arg(long, value_name = "LABEL")]
    only: Vec<String>,
    /// Of the numbers of training pairs in the table, only these, separated by commas.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pairs: Vec<usize>,
    /// Of the seeds in the table, only these.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Replace a value of every config, such as train.steps=20; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    hardware: Hardware,
}

#[derive(Args)]
struct Simulate {
    /// What the microscope does (TOML).
    #[arg(long)]
    config: PathBuf,
    /// Folder with clean images: TIFF files in folders named clean or stack at any depth, else directly in it.
    #[arg(long, required_unless_present = "phantoms")]
    data: Option<PathBuf>,
    /// Also make so many pairs from phantoms; they need no image.
    #[arg(long, default_value_t = 0)]
    phantoms: usize,
    /// Folder to write to: OUT/TASK/simulated/low and high, and manifest.json.
    #[arg(long)]
    out: PathBuf,
    /// Replaces the seed of the config.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Args)]
struct Export {
    /// Run folder.
    run: PathBuf,
    /// Task to export, of a run of several.
    #[arg(long)]
    task: Option<mdr::Task>,
    /// Checkpoint to export; the best one without it.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// File to write; model.onnx in the run folder without it.
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Replace the file of --out where there is one.
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
struct Evaluate {
    /// Model file (.onnx), or the name of a task: its built-in model.
    #[arg(long)]
    model: PathBuf,
    /// Folder with pairs, low/NAME.tif and high/NAME.tif, at any depth.
    #[arg(long)]
    data: PathBuf,
    /// Also write the figures of every image to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also write the mean figures into the model's metadata (mdr.metrics, "test"), under this name of the data.
    #[arg(long, value_name = "NAME")]
    record: Option<String>,
    /// Restores the image in eight orientations (axial: four) and takes the mean.
    #[arg(long)]
    self_ensemble: bool,
    /// CPU threads; all of them without it.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Args)]
struct Train {
    /// What to train (TOML); not needed with --resume.
    #[arg(long, required_unless_present = "resume", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Folder that holds the images.
    #[arg(long)]
    data: PathBuf,
    /// Run folder.
    #[arg(long)]
    out: PathBuf,
    /// Continue the run in --out.
    #[arg(long)]
    resume: bool,
    /// Replace a value of the config, such as train.steps=100; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "resume")]
    set: Vec<String>,
    /// VGG16's weights for the content loss (.safetensors with torchvision's names); the same as --set gan.vgg16=FILE.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    vgg16: Option<PathBuf>,
    #[command(flatten)]
    hardware: Hardware,
}

#[derive(Args)]
struct Finetune {
    /// What to begin with: the name of a task (its built-in model), a .onnx file of mdr-train, or a run folder.
    #[arg(long)]
    base: String,
    /// How to train (TOML).
    #[arg(long)]
    config: PathBuf,
    /// Folder that holds the images.
    #[arg(long)]
    data: PathBuf,
    /// Run folder.
    #[arg(long)]
    out: PathBuf,
    /// Replace a value of the config, such as train.steps=100; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// VGG16's weights for the content loss (.safetensors with torchvision's names); the same as --set gan.vgg16=FILE.
    #[arg(long, value_name = "FILE")]
    vgg16: Option<PathBuf>,
    #[command(flatten)]
    hardware: Hardware,
}

#[derive(Args)]
struct Synthesize {
    /// Run folder of a cin-gan or separate-gan.
    run: PathBuf,
    /// Task, of a run of several.
    #[arg(long)]
    task: Option<mdr::Task>,
    /// Folder of clean TIFFs.
    #[arg(long)]
    clean: PathBuf,
    /// Folder of real degraded TIFFs to compare with.
    #[arg(long)]
    real: Option<PathBuf>,
    /// Folder of real pairs (low/NAME.tif, high/NAME.tif) to compare with in what becomes of each spatial frequency.
    #[arg(long)]
    pairs: Option<PathBuf>,
    /// Folder to write, new or empty: low/NAME_K.tif and high/NAME_K.tif (pairs to train on), sheet.html,
    /// statistics.json.
    #[arg(long)]
    out: PathBuf,
    /// Degraded images of each clean one.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// Seed of the noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    hardware: Hardware,
}

#[derive(Args)]
struct Hardware {
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// CPU threads; all of them without it.
    #[arg(long)]
    threads: Option<u16>,
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    keep_freed_memory();
    let result = match cli.command {
        Command::Train(options) => run_train(options),
        Command::Finetune(Finetune { base, config, data, out, mut set, vgg16, hardware }) => {
            set.push(format!("base={}", toml::Value::String(base)));
            run_train(Train { config: Some(config), data, out, resume: false, set, vgg16, hardware })
        }
        Command::Synthesize(options) => run_synthesize(options),
        Command::Export(options) => run_export(&options),
        Command::Evaluate(options) => run_evaluate(&options),
        Command::Simulate(options) => run_simulate(&options),
        Command::Benchmark(options) => run_benchmark(&options),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mdr-train: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

/// Lets Ctrl-C end a training after its step.
fn stop_on_ctrl_c() -> Result<()> {
    Ok(ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; once more stops without saving");
    })?)
}

fn run_benchmark(options: &Benchmark) -> Result<()> {
    let device = options.hardware.device()?;
    stop_on_ctrl_c()?;
    let Benchmark { config, data, out, only, pairs, seeds, set, hardware } = options;
    let threads = hardware.threads.filter(|&threads| threads > 0).map(usize::from);
    let stop = || STOP.load(Ordering::Relaxed);
    let (results, done) = benchmark::run(&benchmark::Options {
        config,
        data,
        out,
        only,
        pairs,
        seeds,
        set,
        device,
        threads,
        stop: &stop,
    })?;
    println!("{}", out.join("report.html").display());
    ensure!(done, "stopped; the same command goes on");
    let failed = results.cells.iter().filter(|cell| cell.error.is_some()).count();
    ensure!(failed == 0, "{failed} of {} cells failed; the report says why", results.cells.len());
    Ok(())
}

fn run_train(mut options: Train) -> Result<()> {
    if let Some(vgg16) = &options.vgg16 {
        options.set.push(format!("gan.vgg16={}", toml::Value::String(vgg16.display().to_string())));
    }
    let device = options.hardware.device()?;
    stop_on_ctrl_c()?;
    let stop = |_| STOP.load(Ordering::Relaxed);
    let run = train::RunFolder::new(&options.out);
    let outcome = match &options.config {
        Some(config) => train::start(&Config::load(config, &options.set)?, &options.data, &run, device, &stop)?,
        None => train::resume(&options.data, &run, device, &stop)?,
    };
    if !outcome.finished {
        bail!(
            "stopped at step {}; to continue: mdr-train train --resume --data {} --out {}",
            outcome.position.step,
            options.data.display(),
            options.out.display()
        );
    }
    let config = Config::of_run(&run.config())?;
    // A synthesiser is no model that mdr could run.
    let exported = config.tasks.iter().filter(|_| !config.method.synthesises());
    for &task in exported {
        println!("{}", export::export(&run, task, None, None)?.display());
    }
    report::write_report(&run)
}

fn run_export(options: &Export) -> Result<()> {
    let run = train::RunFolder::new(&options.run);
    let task = task_of(&run, options.task)?;
    if let Some(out) = options.out.as_ref().filter(|out| out.is_file() && !options.force) {
        bail!("{}: the file exists already; choose another name, or --force to replace it", out.display());
    }
    println!("{}", export::export(&run, task, options.checkpoint.as_deref(), options.out.as_deref())?.display());
    Ok(())
}

/// The task asked for, or the only one of a run.
fn task_of(run: &train::RunFolder, asked: Option<mdr::Task>) -> Result<mdr::Task> {
    match (&Config::of_run(&run.config())?.tasks[..], asked) {
        (_, Some(task)) => Ok(task),
        (&[task], None) => Ok(task),
        _ => bail!("{} is a run of several tasks; say which with --task", run.root().display()),
    }
}

fn run_synthesize(options: Synthesize) -> Result<()> {
    let device = options.hardware.device()?;
    let task = task_of(&train::RunFolder::new(&options.run), options.task)?;
    let Synthesize { run, clean, real, pairs, out, samples, seed, .. } = options;
    let request = synthesize::Request { run, task, clean, real, pairs, out, samples: samples.into(), seed };
    println!("{}", synthesize::synthesize(&request, device)?.display());
    Ok(())
}

fn run_evaluate(options: &Evaluate) -> Result<()> {
    let model = mdr::Model::named(&options.model)?;
    let (threads, self_ensemble) = (options.threads, options.self_ensemble);
    let restore = mdr::RestoreOptions { threads, self_ensemble, ..Default::default() };
    let rows = evaluate::evaluate(&model, &options.data, &restore)?;
    print!("{}", evaluate::table(&rows));
    if let Some(data) = &options.record {
        export::record(&options.model, data, &rows)?;
    }
    if let Some(path) = &options.json {
        train::write(path, serde_json::to_string_pretty(&rows)?.as_bytes())?;
    }
    Ok(())
}

fn run_simulate(options: &Simulate) -> Result<()> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))?;
    let config = simulate::Config::load(&options.config)?;
    let stop = || STOP.load(Ordering::Relaxed);
    let manifest =
        simulate::simulate(&config, options.data.as_deref(), options.phantoms, &options.out, options.seed, &stop)?;
    println!("{}", manifest.display());
    Ok(())
}

impl Hardware {
    /// Applies the number of threads, and finds the device.
    fn device(&self) -> Result<Device> {
        if let Some(threads) = self.threads.filter(|&threads| threads > 0) {
            tch::set_num_threads(threads.into());
        }
        match self.device.as_str() {
            "cpu" => Ok(Device::Cpu),
            "auto" => {
                load_cuda();
                Ok(Device::cuda_if_available())
            }
            other => {
                let number: usize = other
                    .strip_prefix("cuda:")
                    .and_then(|number| number.parse().ok())
                    .with_context(|| format!("--device {other}: expected auto, cpu or cuda:N"))?;
                load_cuda();
                let found = tch::Cuda::device_count();
                if number as i64 >= found {
                    bail!(
                        "--device {other}: libtorch sees {found} CUDA devices; use --device cpu, or a torch with CUDA"
                    );
                }
                Ok(Device::Cuda(number))
            }
        }
    }
}

/// Opens libtorch_cuda, which registers its kernels when loaded: nothing calls into it directly, so the linker drops it.
/// It lies where libtorch was when this program was built, or where the loader finds libtorch now.
fn load_cuda() {
    let built = std::path::Path::new(env!("MDR_TORCH_LIB")).join("libtorch_cuda.so");
    let path = if built.exists() { built } else { PathBuf::from("libtorch_cuda.so") };
    // SAFETY: the library belongs to the libtorch that this program is linked to; its initialisers do nothing but
    // register kernels.
    match unsafe { libloading::Library::new(&path) } {
        Ok(library) => std::mem::forget(library),
        Err(error) if path.is_absolute() => eprintln!("{}: {error}", path.display()),
        // A libtorch without CUDA has no such file.
        Err(_) => {}
    }
}

/// Every step allocates the same few hundred megabytes. glibc would give them back to the kernel and fault them in anew,
/// which costs a fifth of the speed on a CPU.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        const M_TRIM_THRESHOLD: std::ffi::c_int = -1;
        const M_MMAP_THRESHOLD: std::ffi::c_int = -3;
        // SAFETY: glibc's own function with its documented parameters; it only changes when memory is given back.
        unsafe {
            mallopt(M_MMAP_THRESHOLD, 1 << 30);
            mallopt(M_TRIM_THRESHOLD, std::ffi::c_int::MAX);
        }
    }
}
