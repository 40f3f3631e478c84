//! The loop: batch, step, log; every so often validate and save. It reads top to bottom like the paper and never asks
//! which method runs. All it leaves is in the run folder: config.toml, split.json, log.csv, samples/, checkpoints/.

use crate::augment;
use crate::base;
use crate::calibrate::calibrate;
use crate::checkpoint::{self, Position};
use crate::config::{Config, Split};
use crate::export;
use crate::methods::{Batch, Losses, Method, State};
use crate::pairs::{self, Entry, Images};
use crate::patches::{Loader, Sampler};
use crate::tensorboard::Events;
use crate::validate::{Measured, Validation};
use anyhow::{Context, Result, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use mdr::metrics::Scores;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Validations without a new best, and how far below it (dB of a restoration), at which a run warns that it overfits.
const FALLING: u64 = 4;
const FALLEN: f64 = 0.1;

/// Paths inside a run folder.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

#[allow(missing_docs)]
impl RunFolder {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
    pub fn root(&self) -> &Path {
        &self.0
    }
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }
    pub fn split(&self) -> PathBuf {
        self.0.join("split.json")
    }
    pub fn log(&self) -> PathBuf {
        self.0.join("log.csv")
    }
    pub fn samples(&self) -> PathBuf {
        self.0.join("samples")
    }
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }
    pub fn last(&self) -> PathBuf {
        self.checkpoints().join("last.safetensors")
    }
    /// Validation figures of the best checkpoint; like the next two, of one of the config's tasks (an index).
    pub fn scores(&self, config: &Config, task: usize) -> PathBuf {
        self.checkpoints().join(Self::of_task("best", "json", config, task))
    }
    pub fn model(&self, config: &Config, task: usize) -> PathBuf {
        self.0.join(Self::of_task("model", "onnx", config, task))
    }
    pub fn parity(&self, config: &Config, task: usize) -> PathBuf {
        self.0.join(Self::of_task("parity", "json", config, task))
    }
    /// The task's name is part of it where the run has several.
    fn of_task(name: &str, ending: &str, config: &Config, task: usize) -> String {
        match &config.tasks[..] {
            [_] => format!("{name}.{ending}"),
            tasks => format!("{name}-{}.{ending}", tasks[task]),
        }
    }
    pub fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }
    pub fn best(&self) -> PathBuf {
        self.checkpoints().join("best.safetensors")
    }

    /// What split.json lists.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let text = std::fs::read_to_string(self.split()).with_context(|| self.split().display().to_string())?;
        serde_json::from_str(&text).with_context(|| self.split().display().to_string())
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Step and best validation.
    pub position: Position,
    /// Whether all steps were done; otherwise it was stopped, and can be resumed.
    pub finished: bool,
}

/// Starts a run in a missing folder, in an empty one, or in that of a run which never came to a checkpoint.
///
/// # Errors
/// Where the folder holds something else, and as [`resume`].
pub fn start(
    config: &Config,
    data: &Path,
    run: &RunFolder,
    device: Device,
    stop: &dyn Fn(u64) -> bool,
) -> Result<Outcome> {
    let used = std::fs::read_dir(run.root()).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !used || (run.config().exists() && !run.last().exists()),
        "{} is not empty; choose another --out, or continue the run there: mdr-train train --resume, --data and --out",
        run.root().display()
    );
    ensure!(
        config.train.keep == 0.0 || config.base.is_some(),
        "train.keep = {} is a part of a base's weights, and there is no base: mdr-train finetune --base",
        config.train.keep
    );
    let entries = pairs::find(config, data)?;
    let mut method = prepared(config, device)?;
    let mut config = config.clone();
    if let Some(name) = &config.base {
        let base = base::read(name)?;
        method.begin_with(&base.weights).with_context(|| format!("base {name}"))?;
        let fact = |key: &str| base.facts.get(key).map_or("", String::as_str);
        let (task, own) = (fact("task"), config.tasks[0].as_str());
        if task != own {
            eprintln!("warning: the base {name} is for the task {task:?}, this run for {own}");
        }
        if config.export.trained_on.is_empty() {
            let own = export::folders(&config, config.tasks[0]);
            config.export.trained_on = format!("{own}; before, as {}, on {}", fact("name"), fact("trained_on"));
        }
    }
    go_on(&config, data, run, &entries, method, Position::START, Sums::default(), device, stop)
}

/// Continues a run from its last checkpoint, to the same result as if it had never stopped. `stop` is asked after
/// every step, with the number of steps done; if it says so, the run saves and ends.
///
/// # Errors
/// Where images or run folder cannot be read or written, where the images are not those that the run began with, and
/// where a loss is no longer finite (the last good checkpoint stays).
pub fn resume(data: &Path, run: &RunFolder, device: Device, stop: &dyn Fn(u64) -> bool) -> Result<Outcome> {
    let config = Config::of_run(&run.config())?;
    ensure!(
        run.last().exists(),
        "the run in {} has no checkpoint yet; start it again with --config",
        run.root().display()
    );
    let entries = pairs::find(&config, data)?;
    let recorded = run.entries()?;
    let [now, before] = [&entries, &recorded].map(|entries| used(entries, &config));
    let same = now.len() == before.len() && now.iter().zip(before).all(|(now, before)| now.same_images(before));
    ensure!(same, "the images below {} are not those that {} lists", data.display(), run.split().display());
    let mut method = prepared(&config, device)?;
    let (position, log) = checkpoint::load(&run.last(), method.as_mut())?;
    go_on(&config, data, run, &entries, method, position, Sums::resumed(log), device, stop)
}

/// The files that a run reads: what split.json lists.
fn used<'a>(entries: &'a [Entry], config: &Config) -> Vec<&'a Entry> {
    entries.iter().filter(|entry| entry.is_used(config)).collect()
}

fn prepared(config: &Config, device: Device) -> Result<Box<dyn Method>> {
    let mut method = config.method.build(config, device);
    method.prepare(config)?;
    Ok(method)
}

/// The config with what `simulate.calibrate` found in the training pairs.
fn calibrated(config: &Config, images: &Images) -> Result<Config> {
    let mut config = config.clone();
    if let Some(simulate) = config.simulate.as_mut().filter(|simulate| simulate.calibrate && simulate.fraction > 0.0) {
        calibrate(simulate, config.tasks[0], images.pairs.iter())?;
    }
    Ok(config)
}

#[allow(clippy::too_many_arguments, reason = "the two callers above are its only ones")]
fn go_on(
    config: &Config,
    data: &Path,
    run: &RunFolder,
    entries: &[Entry],
    mut method: Box<dyn Method>,
    mut position: Position,
    mut sums: Sums,
    device: Device,
    stop: &dyn Fn(u64) -> bool,
) -> Result<Outcome> {
    let mut images = pairs::load(entries, Split::Train, config, data)?;
    let config = &calibrated(config, &images)?;
    let settings = &config.train;
    let validation = Validation::new(config, pairs::load(entries, Split::Val, config, data)?)?;
    let (real, clean) = (images.pairs.len(), images.clean.len());
    let mut progress = Progress::new(settings.steps, position.step);
    progress.say(&format!(
        "{} on {device:?}: {real} pairs and {clean} clean planes to train on, {} planes to validate on",
        config.method.published_name(),
        validation.pairs().len()
    ));
    let pairs = entries.iter().filter(|entry| entry.split == Split::Train && entry.is_pair()).count();
    if let Some(asked) = config.data.pairs.map(|asked| asked * config.tasks.len()).filter(|&asked| asked > pairs) {
        progress.say(&format!("warning: data.pairs asks for {asked} pairs to train on, and there are {pairs}"));
    }
    for (index, &task) in config.tasks.iter().enumerate() {
        if let Some(warning) = pairs::exchanged(&images.pairs, index, task) {
            progress.say(&warning);
        }
    }
    if validation.pairs().is_empty() && !config.method.unpaired() {
        progress.say(
            "warning: there is nothing to validate on: no step can be told to be the best, and the last is exported; \
             pairs in a folder val, or --set data.validation_fraction=0.2, which keeps a fifth of them, would say more",
        );
    }
    let input_scores = validation.input_scores()?;
    if let Some(input) = Scores::mean(&input_scores) {
        progress.say(&format!("validation input: {:.2} dB, SSIM {:.3}", input.psnr_affine, input.ssim_affine));
    }
    if let Some(settings) = &config.augment {
        augment::augment(&mut images, settings, config, device)?;
        progress.say(&format!("{} synthetic pairs by {}", images.pairs.len() - real, settings.run));
    }
    let sampler = Sampler::new(config, images)?;
    // Only now: what is wrong with config or images leaves no folder behind.
    for folder in [run.root(), &run.samples(), &run.checkpoints()] {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    write(&run.config(), config.to_toml()?.as_bytes())?;
    write(&run.split(), serde_json::to_string_pretty(&used(entries, config))?.as_bytes())?;
    let mut loader = Loader::start(Arc::new(sampler), position.step);
    let mut log = Log::open(&run.log(), position.step)?;
    let mut base = None;
    if config.base.is_some() && position.step == 0 {
        base = validation.measure(method.as_ref(), device, &run.samples().join(format!("{:07}.png", 0)))?;
    }
    if let Some(base) = &base {
        progress.say(&format!("validation base: {}", base.text));
    }
    progress.begin_row();

    while position.step < settings.steps && !is_over(config, &position) {
        let batch = loader.take()?.to_batch(device);
        let learning_rate = learning_rate(config, position.step);
        sums.add(step(method.as_mut(), &batch, learning_rate, settings.batch)?);
        position.step += 1;

        let stopped = stop(position.step);
        let validate = position.step.is_multiple_of(settings.validate_every) || position.step == settings.steps;
        let logged = position.step.is_multiple_of(settings.log_every);
        if !(stopped || validate || logged) {
            progress.advance(position.step, None);
            continue;
        }
        // A stop leaves no row of its own: the sums go on in the checkpoint.
        let row = validate || logged;
        let losses = if row { sums.take() } else { sums.means() };
        if let Some((name, value)) = losses.iter().find(|(_, value)| !value.is_finite()) {
            bail!(not_finite(name, *value, position.step, run));
        }
        progress.advance(position.step, Some(&losses));
        let rate = progress.images_per_second(settings.batch);
        let mut measured: Option<Measured> = None;
        if validate || stopped {
            check_weights(method.as_ref(), position.step, run)?;
        }
        if validate {
            let picture = run.samples().join(format!("{:07}.png", position.step));
            measured = validation.measure(method.as_ref(), device, &picture)?;
            if let Some(measured) = &measured {
                let best = measured.quality > position.best;
                let mark = if best { " (best)" } else { "" };
                progress.say(&format!("step {}: validation {}{mark}", position.step, measured.text));
                if best {
                    (position.best, position.best_step) = (measured.quality, position.step);
                    for task in 0..config.tasks.len() {
                        let mut figures = validation.figures(task, &input_scores, &measured.scores, config, entries);
                        figures["step"] = position.step.into();
                        write(&run.scores(config, task), figures.to_string().as_bytes())?;
                    }
                    checkpoint::save(&run.best(), method.as_ref(), position, sums.state())?;
                }
            }
        }
        if row {
            let scores = measured.as_ref().and_then(|measured| Scores::mean(&measured.scores));
            log.write(position.step, learning_rate, rate, scores.as_ref(), &losses)?;
        }
        if validate || stopped {
            checkpoint::save(&run.last(), method.as_ref(), position, sums.state())?;
        }
        if row {
            progress.begin_row();
        }
        let since = (position.step - position.best_step) / settings.validate_every;
        if let Some(measured) = measured.filter(|_| since > 0) {
            let fallen = position.best - measured.quality;
            let ends = is_over(config, &position);
            if ends || (since.is_multiple_of(FALLING) && fallen > FALLEN) {
                progress.say(&format!(
                    "warning: validation is {fallen:.2} below its best, that of step {}: the network learns the training \
                     images by heart; that best is what is exported{}",
                    position.best_step,
                    if ends { "; stopping early (train.patience)" } else { "" }
                ));
            }
        }
        if stopped && position.step < settings.steps {
            progress.say(&format!("stopped and saved at step {}", position.step));
            return Ok(Outcome { position, finished: false });
        }
    }
    if let Some(base) = base.filter(|base| base.quality >= position.best) {
        progress.say(&format!(
            "warning: no step is better on validation than the base, {}: this run has brought nothing, the base is the \
             model to use",
            base.text
        ));
    }
    Ok(Outcome { position, finished: true })
}

/// Whether so many validations have brought nothing new that the run ends before its last step; also of a run that is
/// resumed.
fn is_over(config: &Config, position: &Position) -> bool {
    let settings = &config.train;
    let since = (position.step - position.best_step) / settings.validate_every;
    // Without anything to validate on there is no best step.
    settings.patience > 0 && position.best_step > 0 && since >= settings.patience
}

/// One step; where memory runs out, the error says what to set.
fn step(method: &mut dyn Method, batch: &Batch, learning_rate: f64, patches: usize) -> Result<Losses> {
    let work = std::panic::AssertUnwindSafe(|| method.step(batch, learning_rate));
    std::panic::catch_unwind(work).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map_or("", String::as_str);
        if text.contains("out of memory") || text.contains("can't allocate memory") {
            let half = (patches / 2).max(1);
            return anyhow!("out of memory with {patches} patches a step; try --set train.batch={half}");
        }
        std::panic::resume_unwind(panic)
    })
}

/// Rises linearly over the warm-up, then falls along half a cosine.
pub fn learning_rate(config: &Config, step: u64) -> f64 {
    let settings = &config.train;
    let (high, low) = (settings.learning_rate, settings.final_learning_rate);
    if step < settings.warmup {
        return high * (step + 1) as f64 / settings.warmup as f64;
    }
    let part = (step - settings.warmup) as f64 / settings.steps.saturating_sub(settings.warmup).max(1) as f64;
    low + (high - low) * 0.5 * (1.0 + (std::f64::consts::PI * part).cos())
}

fn not_finite(name: &str, value: f64, step: u64, run: &RunFolder) -> String {
    format!(
        "{name} became {value} before step {step}; the last good checkpoints are kept in {}; a lower \
         train.learning_rate may help",
        run.checkpoints().display()
    )
}

/// A checkpoint must not hold NaN: the loss that would show it comes a step later.
fn check_weights(method: &dyn Method, step: u64, run: &RunFolder) -> Result<()> {
    for (name, tensor) in method.state() {
        if tensor.isfinite().all().int64_value(&[]) == 0 {
            bail!(not_finite(&name, f64::NAN, step, run));
        }
    }
    Ok(())
}

/// Means of losses since the last row of the log, kept on the device.
#[derive(Default)]
struct Sums {
    sums: Losses,
    count: u64,
    /// Sums out of a checkpoint, to begin with: only the method knows the order of its losses.
    earlier: State,
}

impl Sums {
    const COUNT: &str = "count";

    /// What [`Sums::state`] gave.
    fn resumed(mut earlier: State) -> Self {
        let count = earlier.remove(Self::COUNT).map_or(0, |count| count.int64_value(&[]).max(0) as u64);
        Self { sums: Losses::new(), count, earlier }
    }

    /// For a checkpoint; nothing where nothing was added since the last row.
    fn state(&self) -> State {
        if self.count == 0 {
            return State::new();
        }
        let sums = self.sums.iter().map(|(name, sum)| (format!("sum.{name}"), sum.shallow_clone()));
        sums.chain([(Self::COUNT.to_owned(), Tensor::from(self.count as i64))]).collect()
    }

    fn add(&mut self, losses: Losses) {
        self.count += 1;
        if self.sums.is_empty() {
            let with_earlier = |(name, loss): (&'static str, Tensor)| {
                let earlier = self.earlier.remove(&format!("sum.{name}"));
                (name, earlier.map_or(loss.shallow_clone(), |sum| sum.to_device(loss.device()) + loss))
            };
            self.sums = losses.into_iter().map(with_earlier).collect();
            return;
        }
        for ((_, sum), (_, loss)) in self.sums.iter_mut().zip(losses) {
            *sum = &*sum + loss;
        }
    }

    fn means(&self) -> Vec<(&'static str, f64)> {
        let mean = |sum: &Tensor| sum.to_kind(Kind::Double).double_value(&[]) / self.count.max(1) as f64;
        self.sums.iter().map(|(name, sum)| (*name, mean(sum))).collect()
    }

    /// The means; the next row begins.
    fn take(&mut self) -> Vec<(&'static str, f64)> {
        let means = self.means();
        *self = Self::default();
        means
    }
}

/// log.csv: one row per logged step; cells of what was not measured stay empty.
struct Log {
    file: std::fs::File,
    /// The same figures for TensorBoard.
    events: Events,
    empty: bool,
}

impl Log {
    /// Opens for appending; rows after `step`, which a resumed run will write again, are dropped.
    fn open(path: &Path, step: u64) -> Result<Self> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let earlier = |line: &&str| {
            line.split(',').next().and_then(|cell| cell.parse::<u64>().ok()).is_none_or(|logged| logged <= step)
        };
        let kept: String = text.lines().filter(earlier).flat_map(|line| [line, "\n"]).collect();
        write(path, kept.as_bytes())?;
        let file = std::fs::OpenOptions::new().append(true).open(path).with_context(|| path.display().to_string())?;
        let events = Events::create(path.parent().unwrap_or(Path::new(".")))?;
        Ok(Self { file, events, empty: kept.is_empty() })
    }

    fn write(
        &mut self,
        step: u64,
        learning_rate: f64,
        images_per_second: f64,
        scores: Option<&Scores>,
        losses: &[(&str, f64)],
    ) -> Result<()> {
        if std::mem::take(&mut self.empty) {
            let names: String = losses.iter().flat_map(|(name, _)| [",", name]).collect();
            writeln!(self.file, "step,learning_rate,images_per_s,psnr_affine,ssim_affine,psnr,ssim{names}")?;
        }
        self.events.scalars(step, losses)?;
        self.events.scalars(step, &[("learning_rate", learning_rate), ("images_per_s", images_per_second)])?;
        if let Some(s) = scores {
            self.events.scalars(step, &[("psnr_affine", s.psnr_affine), ("ssim_affine", s.ssim_affine)])?;
        }
        let scores = match scores {
            Some(s) => format!("{:.4},{:.5},{:.4},{:.5}", s.psnr_affine, s.ssim_affine, s.psnr, s.ssim),
            None => ",,,".into(),
        };
        let losses: String = losses.iter().map(|(_, value)| format!(",{value:.6}")).collect();
        writeln!(self.file, "{step},{learning_rate:.3e},{images_per_second:.1},{scores}{losses}")?;
        Ok(())
    }
}

/// A bar on a terminal; elsewhere a line every ten seconds.
struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    first: u64,
    step: u64,
    began: Instant,
    said: Instant,
    /// Where and when the row of the log began that is written next.
    row: (u64, Instant),
}

impl Progress {
    fn new(total: u64, first: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{bar:30} {pos}/{len} steps, {per_sec}, {eta} left, {msg}";
            ProgressBar::new(total)
                .with_position(first)
                .with_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        Self { bar, total, first, step: first, began: now, said: now, row: (first, now) }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn advance(&mut self, step: u64, losses: Option<&[(&str, f64)]>) {
        self.step = step;
        let text = |losses: &[(&str, f64)]| -> String {
            losses.iter().map(|(name, value)| format!("{name} {value:.5}")).collect::<Vec<_>>().join(", ")
        };
        match (&self.bar, losses) {
            (Some(bar), losses) => {
                bar.set_position(step);
                if let Some(losses) = losses {
                    bar.set_message(text(losses));
                }
            }
            (None, Some(losses)) if self.said.elapsed() > Duration::from_secs(10) => {
                self.said = Instant::now();
                let rate = self.rate();
                let left = if rate > 0.0 { (self.total - step) as f64 / rate } else { 0.0 };
                eprintln!("step {step}/{}, {rate:.2} steps/s, {left:.0} s left, {}", self.total, text(losses));
            }
            _ => {}
        }
    }

    /// Steps per second since this process began the run.
    fn rate(&self) -> f64 {
        (self.step - self.first) as f64 / self.began.elapsed().as_secs_f64().max(1e-9)
    }

    /// The steps of the next row of the log begin now: what validation took is not counted.
    fn begin_row(&mut self) {
        self.row = (self.step, Instant::now());
    }

    /// Since the row began.
    fn images_per_second(&self, batch: usize) -> f64 {
        let (first, began) = self.row;
        ((self.step - first) as f64 * batch as f64) / began.elapsed().as_secs_f64().max(1e-9)
    }
}

/// Writes under another name first, then renames.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes).with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("renaming {}", partial.display()))
}
