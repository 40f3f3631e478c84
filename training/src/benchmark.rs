//! A table of methods → cells → results.json and report.html. A cell is one training: a method with so many training
//! pairs and a seed, on a task (or on several that share one network). Each is a run folder like any other, beside what is
//! known of it in a file of its own, so that a benchmark that was stopped, or whose table was changed, does only what is
//! left to do. The test images are looked at once, at the end of each cell, through the engine and with the exported
//! model; they decide nothing.
//!
//! RUN/results.json, RUN/report.html; RUN/cells/CELL.json: what is known of a cell; RUN/cells/CELL/: its run folder,
//! without the checkpoints once it is finished, unless a group of the table builds upon cells like it.

use crate::config::{Config, Split};
use crate::evaluate::{self, Row};
use crate::train::{self, RunFolder, write};
use crate::{export, html, pairs, report, table};
use anyhow::{Context, Result, anyhow, bail, ensure};
use mdr::metrics::Scores;
use mdr::{Image, Model, RestoreOptions, Task};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::Device;

/// A table of methods, as its TOML file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What the report calls it: which budget, for which machine.
    pub title: String,
    /// Tasks of every group that does not name its own.
    pub tasks: Vec<Task>,
    /// Numbers of training pairs, likewise; 0: no pairs, only images that belong to no other.
    pub pairs: Vec<usize>,
    /// Seeds, likewise. All cells of the first seed come before those of the second.
    pub seeds: Vec<u64>,
    /// Changes of every group's config, `KEY=VALUE`; a group's own follow.
    #[serde(default)]
    pub set: Vec<String>,
    /// Test images of each task that are shown.
    #[serde(default = "three")]
    pub examples: usize,
    /// Methods, each a row of the report for each number of pairs.
    pub groups: Vec<Group>,
}

fn three() -> usize {
    3
}

/// A method with its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Name in the report.
    pub label: String,
    /// Config to train from, relative to the table's file; `{task}` in it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Instead: a model that is not trained here, `builtin` or a file relative to the table's (`{task}` in it is
    /// replaced), or `input`, the degraded image itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tasks; without them, the table's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<Task>>,
    /// Whether one network is trained for all tasks.
    #[serde(default)]
    pub shared: bool,
    /// Numbers of training pairs; without them, the table's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Vec<usize>>,
    /// Seeds; without them, the table's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u64>>,
    /// Changes of the config, `KEY=VALUE`. `{task}` in them is the cell's task, `{needs}` the run folder of the cell
    /// that it needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    /// Label of an earlier group whose cells these build upon: that of the same seed and number of pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// Label of the group that it is one change of: shown with it in a table of ablations instead of the main one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ablation: Option<String>,
    /// Box of Figure 3 that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figure: Option<String>,
    /// Row of the published table that stands beside it: input, CARE, DeblurGAN, CycleGAN, or ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<String>,
}

/// Everything that the report is made of, but pictures and logs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Results {
    pub title: String,
    /// YYYY-MM-DD, UTC, of the last change.
    pub date: String,
    /// On what, and with which commit of the program, cells are trained now.
    pub machine: String,
    /// Steps and the like that `--set` changed for all.
    pub set: Vec<String>,
    /// Test images of each task that are shown, relative to the task's test folder.
    pub examples: Vec<(Task, Vec<PathBuf>)>,
    pub groups: Vec<Group>,
    pub cells: Vec<Cell>,
    pub beyond: Vec<Beyond>,
}

/// A number of pairs that the data do not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Beyond {
    pub group: usize,
    pub asked: usize,
    pub available: usize,
}

/// One training, or one model, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// Name of its file and folder.
    pub key: String,
    /// Index of its group.
    pub group: usize,
    /// One task, or those that share its network.
    pub tasks: Vec<Task>,
    /// Training pairs of each task; none where nothing is trained here.
    pub pairs: Option<usize>,
    /// Likewise.
    pub seed: Option<u64>,
    /// Index of the cell that it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<usize>,
    /// Hash of its config, of the names of its images, and of what it needs.
    pub fingerprint: String,
    /// As [`Results::machine`], when it was trained or scored.
    #[serde(default)]
    pub machine: String,
    /// How far it is.
    pub state: State,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Steps done, and those of the config.
    pub steps: [u64; 2],
    /// Time of the training, validation included, in seconds.
    pub seconds: f64,
    /// Speed at the end of the training.
    pub steps_per_s: f64,
    /// Figures of each task's test images.
    pub scores: Vec<TaskScores>,
}

/// How far a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum State {
    Open,
    Finished,
    Failed,
}

/// Figures of the test images of a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TaskScores {
    pub task: Task,
    /// Means over the images.
    pub mean: Figures,
    pub images: Vec<ImageScores>,
}

/// PSNR in dB and SSIM, after an affine match and plain (scale input), as [`Scores`] has them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Figures {
    pub psnr_affine: f64,
    pub ssim_affine: f64,
    pub psnr: f64,
    pub ssim: f64,
}

/// Figures of a test image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ImageScores {
    pub name: String,
    #[serde(flatten)]
    pub figures: Figures,
}

impl From<Scores> for Figures {
    fn from(scores: Scores) -> Self {
        // Equal images have an infinite PSNR, which JSON does not know. Six decimals are read back as they were written.
        let [psnr_affine, ssim_affine, psnr, ssim] = [scores.psnr_affine, scores.ssim_affine, scores.psnr, scores.ssim]
            .map(|figure| (figure.min(200.0) * 1e6).round() / 1e6);
        Self { psnr_affine, ssim_affine, psnr, ssim }
    }
}

impl TaskScores {
    fn new(task: Task, scores: impl Iterator<Item = (String, Scores)>) -> Result<Self> {
        let (names, scores): (Vec<_>, Vec<_>) = scores.unzip();
        let mean = Scores::mean(&scores).context("no test image")?.into();
        let image = |(name, scores): (String, Scores)| ImageScores { name, figures: scores.into() };
        Ok(Self { task, mean, images: names.into_iter().zip(scores).map(image).collect() })
    }
}

/// What to run, and how.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The table (TOML).
    pub config: &'a Path,
    /// Folder with a folder for each task, in it train, val and test.
    pub data: &'a Path,
    /// Folder to write to.
    pub out: &'a Path,
    /// Labels of the groups to run; none: all.
    pub only: &'a [String],
    /// Of the numbers of training pairs and of the seeds that the table names, those to run; none: all.
    pub pairs: &'a [usize],
    #[allow(missing_docs)]
    pub seeds: &'a [u64],
    /// Changes of every config, after the table's and the groups' own.
    pub set: &'a [String],
    /// Where to train.
    pub device: Device,
    /// Threads of the engine; none: all.
    pub threads: Option<usize>,
    /// Asked after every step; if it says so, the benchmark saves and ends.
    pub stop: &'a dyn Fn() -> bool,
}

/// The cells of a table, in the order in which they are run, with what is known of them already. Writes nothing.
///
/// # Errors
/// Where the table or a config in it is not right.
pub fn plan(options: &Options) -> Result<Results> {
    Ok(Plan::new(&Table::load(options.config)?, options)?.results)
}

/// Runs what is left to do of a table; gives its results, and whether that was all.
///
/// # Errors
/// Where the table or a config in it is not right, or a file cannot be written. What goes wrong in a cell is its result.
pub fn run(options: &Options) -> Result<(Results, bool)> {
    let table = Table::load(options.config)?;
    let out = options.out;
    let used = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!used || results_path(out).exists(), "{} is not empty and holds no benchmark", out.display());
    let mut plan = Plan::new(&table, options)?;
    std::fs::create_dir_all(cells_path(out)).with_context(|| format!("creating {}", cells_path(out).display()))?;
    plan.write()?;
    let count = plan.results.cells.len();
    for number in 0..count {
        let cell = &plan.results.cells[number];
        if cell.state == State::Finished {
            continue;
        }
        eprintln!("cell {} of {count}: {}", number + 1, cell.key);
        let done = plan.run(number)?;
        plan.write()?;
        if !done {
            return Ok((plan.results, false));
        }
    }
    Ok((plan.results, true))
}

/// results.json in the folder of a benchmark.
pub fn results_path(out: &Path) -> PathBuf {
    out.join("results.json")
}

/// Folder of the cells.
pub fn cells_path(out: &Path) -> PathBuf {
    out.join("cells")
}

/// Where a cell keeps an example, a path relative to its task's test folder, as it restored it.
pub fn example_path(out: &Path, cell: &Cell, task: Task, name: &Path) -> PathBuf {
    cells_path(out).join(&cell.key).join("examples").join(task.as_str()).join(name)
}

impl Table {
    fn load(path: &Path) -> Result<Self> {
        let context = || format!("benchmark {}", path.display());
        let text = std::fs::read_to_string(path).with_context(context)?;
        let table: Self = toml::from_str(&text).with_context(context)?;
        table.check().with_context(context)?;
        Ok(table)
    }

    fn check(&self) -> Result<()> {
        let mut slugs = BTreeSet::new();
        for (number, group) in self.groups.iter().enumerate() {
            let label = &group.label;
            ensure!(!slug(label).is_empty() && slugs.insert(slug(label)), "two groups are called {label:?}, or alike");
            ensure!(
                group.config.is_some() != group.model.is_some(),
                "group {label:?}: expected either config or model"
            );
            if let Some(needs) = &group.needs {
                let earlier = self.groups[..number].iter().any(|other| other.label == *needs && other.config.is_some());
                ensure!(earlier, "group {label:?} needs {needs:?}, which is no earlier group with a config");
            }
            if let Some(base) = &group.ablation {
                let known = self.groups.iter().any(|other| other.label == *base && base != label);
                ensure!(known, "group {label:?} is an ablation of {base:?}, which is no other group");
            }
        }
        Ok(())
    }
}

/// Lower-case letters and digits, the rest as single hyphens.
fn slug(label: &str) -> String {
    let letters = label.to_lowercase().replace('+', " plus ");
    letters
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

/// Those of `all` that are among the `chosen`; all of them where none is chosen.
fn wanted<T: Copy + PartialEq>(all: &[T], chosen: &[T]) -> Vec<T> {
    all.iter().copied().filter(|value| chosen.is_empty() || chosen.contains(value)).collect()
}

/// The cells of a table, in the order in which they are run.
struct Plan<'a> {
    options: &'a Options<'a>,
    results: Results,
    /// Of each cell, the config and the changes that follow once it is known where the cell is that it needs.
    configs: Vec<Vec<String>>,
}

impl<'a> Plan<'a> {
    fn new(table: &Table, options: &'a Options<'a>) -> Result<Self> {
        for only in options.only {
            let labels: Vec<_> = table.groups.iter().map(|group| group.label.as_str()).collect();
            ensure!(labels.contains(&only.as_str()), "--only {only}: the groups are {}", labels.join("; "));
        }
        let examples = (table.tasks.iter())
            .map(|&task| (task, examples(&test_folder(options.data, task), table.examples)))
            .collect();
        let results = Results {
            title: table.title.clone(),
            date: today(),
            machine: machine(options.device),
            set: options.set.to_vec(),
            examples,
            groups: table.groups.clone(),
            cells: Vec::new(),
            beyond: Vec::new(),
        };
        let mut plan = Self { options, results, configs: Vec::new() };
        let pairs_of = |group: &Group| wanted(group.pairs.as_ref().unwrap_or(&table.pairs), options.pairs);
        let seeds_of = |group: &Group| wanted(group.seeds.as_ref().unwrap_or(&table.seeds), options.seeds);
        let mut seeds: Vec<u64> = Vec::new();
        table.groups.iter().flat_map(seeds_of).for_each(|seed| {
            if !seeds.contains(&seed) {
                seeds.push(seed)
            }
        });
        for pairs in options.pairs {
            ensure!(
                table.groups.iter().any(|group| pairs_of(group).contains(pairs)),
                "--pairs {pairs}: not in the table"
            );
        }
        for seed in options.seeds {
            ensure!(seeds.contains(seed), "--seeds {seed}: not in the table");
        }
        // What a chosen group needs comes before it.
        let mut chosen: Vec<String> = Vec::new();
        for group in table.groups.iter().rev() {
            if options.only.is_empty() || options.only.contains(&group.label) || chosen.contains(&group.label) {
                chosen.extend([group.label.clone()].into_iter().chain(group.needs.clone()));
            }
        }
        let chosen = |group: &Group| chosen.contains(&group.label);
        for (number, group) in table.groups.iter().enumerate().filter(|(_, group)| chosen(group)) {
            for &task in group.model.iter().flat_map(|_| group.tasks.as_ref().unwrap_or(&table.tasks)) {
                plan.add_model(number, task)?;
            }
        }
        for seed in seeds {
            for (number, group) in table.groups.iter().enumerate() {
                if !seeds_of(group).contains(&seed) || !chosen(group) || group.config.is_none() {
                    continue;
                }
                let tasks = group.tasks.as_ref().unwrap_or(&table.tasks);
                let sets: Vec<&[Task]> = if group.shared { vec![tasks] } else { tasks.chunks(1).collect() };
                for pairs in pairs_of(group) {
                    for tasks in &sets {
                        plan.add_training(table, number, tasks, pairs, seed)?;
                    }
                }
            }
        }
        // A finished cell lost its checkpoints where no other needed them then.
        let needed: BTreeSet<usize> = plan.results.cells.iter().filter_map(|cell| cell.needs).collect();
        for number in needed {
            let run = RunFolder::new(&plan.folder(&plan.results.cells[number]));
            if !run.last().exists() && !run.best().exists() {
                plan.results.cells[number].state = State::Open;
            }
        }
        plan.results.beyond.sort();
        plan.results.beyond.dedup();
        Ok(plan)
    }

    fn add_model(&mut self, group: usize, task: Task) -> Result<()> {
        let Group { label, model, .. } = &self.results.groups[group];
        let model = model.as_deref().unwrap_or_default().replace("{task}", task.as_str());
        let loaded = load_model(&model, task, self.options.config);
        let file = loaded.as_ref().map_or(String::new(), |model| model.facts().sha256.clone());
        let images = pairs::below(&test_folder(self.options.data, task)).unwrap_or_default();
        let fingerprint = fingerprint(&[&model, &file, &serde_json::to_string(&images)?, &self.examples(&[task])?]);
        self.add(Cell { fingerprint, ..Cell::new(format!("{}-{task}", slug(label)), group, &[task]) }, vec![]);
        Ok(())
    }

    fn add_training(&mut self, table: &Table, group: usize, tasks: &[Task], asked: usize, seed: u64) -> Result<()> {
        let Group { label, needs, set, .. } = &self.results.groups[group];
        let names: Vec<String> = tasks.iter().map(|task| format!("{:?}", task.as_str())).collect();
        let mut set: Vec<String> = [&table.set, set, self.options.set].into_iter().flatten().cloned().collect();
        set.push(format!("task=[{}]", names.join(", ")));
        set.push(format!("seed={seed}"));
        set.iter_mut().for_each(|change| *change = change.replace("{task}", &task_names(tasks)));

        // Where fewer pairs are asked for than there are, so many; else all, once.
        let available =
            self.config(group, tasks, &set, None)?.map_or(0, |config| pairs_to_train_from(&config, self.options.data));
        if asked > available {
            self.results.beyond.push(Beyond { group, asked, available });
        }
        let pairs = asked.min(available);
        let known = |cell: &Cell| (cell.group, cell.pairs, cell.seed) == (group, Some(pairs), Some(seed));
        if self.results.cells.iter().any(|cell| known(cell) && cell.tasks == tasks) {
            return Ok(());
        }
        set.push(format!("data.pairs={pairs}"));

        let needs = match needs {
            None => None,
            Some(needs) => {
                let fits = |cell: &Cell| {
                    let same = cell.pairs == Some(pairs) && cell.seed == Some(seed);
                    same && self.results.groups[cell.group].label == *needs
                        && tasks.iter().all(|task| cell.tasks.contains(task))
                };
                let found = self.results.cells.iter().position(fits);
                Some(found.with_context(|| {
                    format!(
                        "{label:?} with {pairs} pairs and seed {seed} needs such a cell of {needs:?}, and there is none"
                    )
                })?)
            }
        };
        let config = self.config(group, tasks, &set, None)?.context("a group that is trained has a config")?;
        let images = pairs::find(&config, self.options.data).unwrap_or_default();
        let parts = [
            config.to_toml()?,
            set.iter().filter(|change| change.contains(NEEDS)).cloned().collect::<String>(),
            needs.map_or(String::new(), |needs| self.results.cells[needs].fingerprint.clone()),
            serde_json::to_string(&images)?,
            self.examples(tasks)?,
        ];
        let task = if let [task] = tasks { task.as_str() } else { "shared" };
        let cell = Cell {
            pairs: Some(pairs),
            seed: Some(seed),
            needs,
            fingerprint: fingerprint(&parts.each_ref().map(String::as_str)),
            steps: [0, config.train.steps],
            ..Cell::new(format!("{}-{task}-n{pairs}-s{seed}", slug(label)), group, tasks)
        };
        self.add(cell, set);
        Ok(())
    }

    /// Adds a cell, with what earlier runs found, if that was the same cell.
    fn add(&mut self, cell: Cell, set: Vec<String>) {
        let earlier = std::fs::read_to_string(self.file(&cell)).ok();
        let earlier: Option<Cell> = earlier.and_then(|text| serde_json::from_str(&text).ok());
        let same = |earlier: &Cell| earlier.fingerprint == cell.fingerprint && earlier.key == cell.key;
        let cell = match earlier.filter(same) {
            Some(earlier) => Cell { group: cell.group, needs: cell.needs, ..earlier },
            None => cell,
        };
        self.results.cells.push(cell);
        self.configs.push(set);
    }

    fn examples(&self, tasks: &[Task]) -> Result<String> {
        let shown: Vec<_> = self.results.examples.iter().filter(|(task, _)| tasks.contains(task)).collect();
        Ok(serde_json::to_string(&shown)?)
    }

    /// The config of a group for these tasks with these changes, the run folder of what it needs filled in where that is
    /// known. None where nothing is trained.
    fn config(&self, group: usize, tasks: &[Task], set: &[String], needs: Option<&str>) -> Result<Option<Config>> {
        let Group { label, config, .. } = &self.results.groups[group];
        let Some(config) = config else { return Ok(None) };
        // A base is read together with the config, so that it must be there.
        let known = set.iter().filter(|change| needs.is_some() || *change != "base={needs}");
        let set: Vec<String> = known.map(|change| change.replace(NEEDS, needs.unwrap_or(NEEDS))).collect();
        let config = config.to_string_lossy().replace("{task}", &task_names(tasks));
        let config = Config::load(&beside(self.options.config, Path::new(&config)), &set);
        config.map(Some).with_context(|| format!("group {label:?}"))
    }

    /// What is known of a cell.
    fn file(&self, cell: &Cell) -> PathBuf {
        cells_path(self.options.out).join(format!("{}.json", cell.key))
    }

    fn folder(&self, cell: &Cell) -> PathBuf {
        cells_path(self.options.out).join(&cell.key)
    }

    /// Writes results.json and the report.
    fn write(&self) -> Result<()> {
        write(&results_path(self.options.out), serde_json::to_string_pretty(&self.results)?.as_bytes())?;
        table::write_report(self.options.out, self.options.data)
    }

    /// Runs a cell, and says whether it came to an end, a good or a bad one.
    fn run(&mut self, number: usize) -> Result<bool> {
        let mut cell = self.results.cells[number].clone();
        cell.machine.clone_from(&self.results.machine);
        let work = std::panic::AssertUnwindSafe(|| match cell.seed {
            Some(_) => self.train(number, &mut cell),
            None => self.score_model(&mut cell).map(|()| true),
        });
        // tch panics where libtorch throws, as it does when memory runs out.
        let done = std::panic::catch_unwind(work).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(anyhow!("{}", text.unwrap_or("panic").lines().next().unwrap_or_default()))
        });
        let finished = match done {
            Ok(true) => {
                (cell.state, cell.error) = (State::Finished, None);
                true
            }
            Ok(false) => false,
            Err(error) => {
                eprintln!("{} failed: {error:#}", cell.key);
                (cell.state, cell.error) = (State::Failed, Some(format!("{error:#}")));
                true
            }
        };
        self.save(&cell)?;
        self.results.cells[number] = cell;
        Ok(finished)
    }

    fn save(&self, cell: &Cell) -> Result<()> {
        write(&self.file(cell), serde_json::to_string_pretty(cell)?.as_bytes())
    }

    /// Trains, exports and scores; false where it was stopped.
    fn train(&self, number: usize, cell: &mut Cell) -> Result<bool> {
        let needs = cell.needs.map(|needs| &self.results.cells[needs]);
        let needs = match needs {
            Some(needs) if needs.state != State::Finished => bail!("it needs {}, which failed", needs.key),
            Some(needs) => {
                let folder = self.folder(needs);
                Some(std::path::absolute(&folder).unwrap_or(folder).display().to_string())
            }
            None => None,
        };
        let config = self.config(cell.group, &cell.tasks, &self.configs[number], needs.as_deref())?;
        let config = config.context("a group that is trained has a config")?;
        let run = RunFolder::new(&self.folder(cell));
        let Options { data, device, stop, .. } = *self.options;
        let stop = |_| stop();
        let began = Instant::now();
        let outcome = if run.last().exists() && self.is_of(cell) {
            train::resume(data, &run, device, &stop)
        } else {
            if run.root().exists() {
                std::fs::remove_dir_all(run.root()).with_context(|| format!("removing {}", run.root().display()))?;
            }
            cell.seconds = 0.0;
            self.save(cell)?;
            train::start(&config, data, &run, device, &stop)
        };
        cell.seconds += began.elapsed().as_secs_f64();
        let outcome = outcome?;
        cell.steps[0] = outcome.position.step;
        if !outcome.finished {
            return Ok(false);
        }
        cell.steps_per_s = rate(&run) / config.train.batch as f64;
        cell.scores.clear();
        if !config.method.synthesises() {
            for &task in &cell.tasks {
                let model = Model::load(&export::export(&run, task, None, None)?)?;
                let scores = self.score(cell, task, Some(&model))?;
                cell.scores.push(scores);
            }
        }
        report::write_report(&run)?;
        // Also where that group is not among those chosen now.
        let label = &self.results.groups[self.results.cells[number].group].label;
        if !self.results.groups.iter().any(|group| group.needs.as_ref() == Some(label)) {
            for checkpoint in [run.last(), run.best()].iter().filter(|path| path.exists()) {
                std::fs::remove_file(checkpoint).with_context(|| checkpoint.display().to_string())?;
            }
        }
        Ok(true)
    }

    /// Whether the file beside a cell's folder, which says what that holds, is of this cell.
    fn is_of(&self, cell: &Cell) -> bool {
        let text = std::fs::read_to_string(self.file(cell)).unwrap_or_default();
        serde_json::from_str::<Cell>(&text).is_ok_and(|known| known.fingerprint == cell.fingerprint)
    }

    fn score_model(&self, cell: &mut Cell) -> Result<()> {
        let task = cell.tasks[0];
        let model = self.results.groups[cell.group].model.as_deref().unwrap_or_default();
        let scores = match model {
            "input" => self.score(cell, task, None)?,
            model => {
                let model = load_model(&model.replace("{task}", task.as_str()), task, self.options.config)?;
                self.score(cell, task, Some(&model))?
            }
        };
        cell.scores = vec![scores];
        Ok(())
    }

    /// Scores the test images of a task, restored or as they are, and keeps the examples.
    fn score(&self, cell: &Cell, task: Task, model: Option<&Model>) -> Result<TaskScores> {
        let data = test_folder(self.options.data, task);
        let options = RestoreOptions { threads: self.options.threads, ..RestoreOptions::default() };
        let shown = self.results.examples.iter().find(|(of, _)| *of == task).map_or(&[][..], |(_, shown)| shown);
        let rows = evaluate::score(&data, &mut |name, low| {
            let restored: Image = match model {
                Some(model) => evaluate::restore(model, low, &options)?,
                None => low.clone(),
            };
            if shown.iter().any(|example| example == name) {
                let path = example_path(self.options.out, cell, task, name);
                std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
                mdr::tiff_io::write_tiff(&path, &restored, true)?;
            }
            Ok(restored)
        })?;
        TaskScores::new(task, rows.into_iter().map(|Row { name, restored, .. }| (name, restored)))
    }
}

/// Stands in a group's changes for the run folder of the cell that is needed.
const NEEDS: &str = "{needs}";

impl Cell {
    fn new(key: String, group: usize, tasks: &[Task]) -> Self {
        Self {
            key,
            group,
            tasks: tasks.to_vec(),
            pairs: None,
            seed: None,
            needs: None,
            fingerprint: String::new(),
            machine: String::new(),
            state: State::Open,
            error: None,
            steps: [0; 2],
            seconds: 0.0,
            steps_per_s: 0.0,
            scores: Vec::new(),
        }
    }
}

/// Where the test images of a task lie.
pub fn test_folder(data: &Path, task: Task) -> PathBuf {
    data.join(task.as_str()).join("test")
}

/// Evenly spaced among the test images, first and last among them.
fn examples(folder: &Path, count: usize) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> =
        pairs::below(folder).unwrap_or_default().into_iter().filter_map(|entry| entry.degraded).collect();
    names.sort();
    let count = count.min(names.len());
    (0..count).map(|place| names[place * (names.len() - 1) / (count - 1).max(1)].clone()).collect()
}

/// How many training pairs there are; of several tasks, the most. So many as could be asked for where they cannot be
/// listed: then the training says what is wrong.
fn pairs_to_train_from(config: &Config, data: &Path) -> usize {
    let count = |&task: &Task| {
        let mut alone = config.clone();
        alone.data.pairs = None;
        if config.data.folders.is_empty() {
            alone.tasks = vec![task];
        }
        let found = pairs::find(&alone, data).ok()?;
        Some(found.iter().filter(|entry| entry.split == Split::Train && entry.is_pair()).count())
    };
    config.tasks.iter().map(count).max().flatten().unwrap_or(usize::MAX)
}

/// `builtin`, or a file beside the table.
fn load_model(model: &str, task: Task, table: &Path) -> Result<Model> {
    Ok(if model == "builtin" { Model::builtin(task)? } else { Model::load(&beside(table, Path::new(model)))? })
}

/// What stands for `{task}`.
fn task_names(tasks: &[Task]) -> String {
    tasks.iter().map(|task| task.as_str()).collect::<Vec<_>>().join("-")
}

fn beside(table: &Path, path: &Path) -> PathBuf {
    table.parent().unwrap_or(Path::new("")).join(path)
}

/// Images per second, as the last row of log.csv has it.
fn rate(run: &RunFolder) -> f64 {
    let columns = html::columns(&std::fs::read_to_string(run.log()).unwrap_or_default());
    let column = columns.iter().find(|(name, _)| name == "images_per_s");
    column.and_then(|(_, points)| points.last()).map_or(0.0, |(_, rate)| *rate)
}

fn fingerprint(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What trains, and the program's commit, for people.
fn machine(device: Device) -> String {
    let commit = env!("MDR_COMMIT");
    let threads = tch::get_num_threads().max(1);
    let (device, processor) = (device_name(device), processor_name());
    format!("{device} ({processor}, threads: {threads}), commit {}", commit.get(..12).unwrap_or(commit))
}

fn device_name(device: Device) -> String {
    let Device::Cuda(number) = device else { return "CPU".into() };
    let mut query = std::process::Command::new("nvidia-smi");
    query.args(["--query-gpu=name", "--format=csv,noheader", &format!("--id={number}")]);
    let output = query.output().ok().filter(|output| output.status.success());
    output.map_or("CUDA".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// As Linux has it.
fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown processor", |(_, name)| name.trim()).to_owned()
}

fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    date(now.map_or(0, |since| since.as_secs() / 86_400))
}

/// Days since 1970-01-01 as YYYY-MM-DD.
fn date(mut days: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        // date -u -d @SECONDS +%F
        for (days, expected) in
            [(0, "1970-01-01"), (19_782, "2024-02-29"), (19_783, "2024-03-01"), (20_818, "2026-12-31")]
        {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn labels_become_file_names() {
        assert_eq!(slug("cGAN + CIN-GAN (ours)"), "cgan-plus-cin-gan-ours");
        assert_eq!(slug("…"), "");
    }
}
