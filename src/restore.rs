//! The order of restoration, nothing else: planes → normalise → tile → network → blend → undo → planes.
//!
//! The calling thread reads, blends and writes; workers run the network on one tile each. A `Unit` is what one
//! canvas holds: a plane for a 2-D network, the stack of a time point for a 3-D one. Few units are under way at once,
//! so memory stays bounded however many planes there are. Tiles are blended in their order, so the result is the same
//! bit for bit for any number of threads.
//!
//! For the task `axial` the planes are XZ and YZ slices of the stack, which [`axial`] cuts and averages.
//!
//! NaN and infinite pixels are restored around: for the network the nearest finite pixel of the row takes their place,
//! and in the result they are what they were.

use crate::axial;
use crate::blend::Canvas;
use crate::model::{Facts, Task, lcm};
use crate::network::{RunOptions, Watch};
use crate::normalize::Fitted;
use crate::orient::{self, Orientation};
use crate::share::{PIECE, share};
use crate::tiling::{AxisTiling, Constraint, reflect};
use crate::zeros::zeros;
use crate::{
    Error, Image, ImageInfo, Model, Normalization, PixelType, PlaneIndex, PlaneSink, PlaneSource, Result, Shape,
    tiff_io,
};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Options of one restoration; `Default` is right for nearly all. As JSON: an object with these names, all optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestoreOptions {
    /// Side in pixels of the tiles that the network sees, raised to twice what neighbours share; chosen for speed
    /// within the memory limit where `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tile: Option<usize>,
    /// Pixels that neighbouring tiles share, raised to what the network's field needs; what goes beyond that is
    /// blended. `None`: just what is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<usize>,
    /// Threads that take statistics and run the network; `None`: as many as there are processors. The result does not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Bound on the working memory in MB (2^20 bytes); `None`: 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_mb: Option<u64>,
    /// Sums up convolutions in the way that rounds least, at about half the speed: the default is off by up to some
    /// millionths of the range of the image, this by a third of that.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub precise: bool,
    /// Mean of the results for the image, its flips, and those of the image with rows and columns exchanged (Timofte et
    /// al. 2016): eight times the work, and a little nearer to the truth. For the task `axial`, and for models of one size
    /// that is not square, flips alone: four times the work.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub self_ensemble: bool,
    /// Channel to restore, from 0; `None`: all, each on its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<usize>,
    /// Pixel size in µm that replaces the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pixel_size_um: Option<f64>,
    /// Z step in µm that replaces the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub z_step_um: Option<f64>,
    /// Replaces the model's normalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// Statistics of the channels to be restored, from [`fit_planes`], in place of the image's own: for a part of an
    /// image that is to be restored as the whole would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fitted: Option<Vec<Fitted>>,
    /// Replaces the model's task, for models that do not name theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Of an axial model: the planes are XZ or YZ slices, isotropic already, and go through the network as they are.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub slices: bool,
}

impl RestoreOptions {
    /// Whether Z is resampled and restored from two sides.
    fn is_axial(&self, model: &Model) -> bool {
        !self.slices && self.task_of(model) == Some(Task::Axial)
    }

    fn task_of(&self, model: &Model) -> Option<Task> {
        self.task.or(model.facts().task)
    }

    /// In which the network sees each tile.
    fn orientations(&self, model: &Model) -> &'static [Orientation] {
        let [_, y, x] = model.network().fixed();
        match self.self_ensemble {
            false => orient::ONE,
            true if self.task_of(model) == Some(Task::Axial) || y != x => orient::FLIPS,
            true => orient::FLIPS_AND_TURNS,
        }
    }
}

/// The default of [`RestoreOptions::memory_limit_mb`].
pub const DEFAULT_MEMORY_LIMIT_MB: u64 = 2048;

/// Bytes of working memory that a model keeps at most for its next restoration. To get new memory for each of many small
/// images would take as long as a part of the work.
const KEPT_MEMORY: u64 = 64 << 20;

/// How far a restoration is, in hundredths of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is done.
    pub done: u64,
    /// What there is in all.
    pub total: u64,
}

/// Called from the calling thread, at the start, after every tile and, while tiles are at work, every 50 ms; returning
/// `false` cancels.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress) -> bool;

/// What the result will be: shape, pixel size, provenance; pixel type F32.
///
/// # Errors
/// Where image, model and options do not fit.
pub fn output_info(model: &Model, input: &ImageInfo, options: &RestoreOptions) -> Result<ImageInfo> {
    let facts = model.facts();
    options.normalization.as_ref().map_or(Ok(()), Normalization::check)?;
    let positive = |name: &str, value: Option<f64>| match value {
        Some(value) if !(value.is_finite() && value > 0.0) => {
            Err(Error::InvalidOption(format!("{name} {value}: expected a length in µm above 0")))
        }
        _ => Ok(value),
    };
    for (name, value) in [("tile", options.tile), ("threads", options.threads)] {
        if value == Some(0) {
            return Err(Error::InvalidOption(format!("{name} 0: expected at least 1, or auto")));
        }
    }
    if options.memory_limit_mb == Some(0) {
        return Err(Error::InvalidOption("memory limit 0: expected at least 1 MB".into()));
    }
    if let (Some(asked), Some(own)) = (options.task, facts.task)
        && asked != own
    {
        return Err(Error::InvalidOption(format!("task {asked}: the model {} is for {own}", facts.name)));
    }
    let mut info = input.clone();
    if input.shape.is_empty() {
        return Err(Error::ShapeMismatch {
            expected: "an image with at least one pixel".into(),
            found: format!("{:?}", input.shape),
        });
    }
    if let Some(channel) = options.channel {
        if channel >= input.shape.c {
            return Err(Error::InvalidOption(format!(
                "channel {channel}: the image has {} (numbered from 0)",
                input.shape.c
            )));
        }
        info.shape.c = 1;
        info.axes = info.axes.without('C');
        tiff_io::keep_channel(&mut info.extra, channel, input.shape);
    }
    if facts.channels != 1 && facts.channels != info.shape.c {
        return Err(Error::ShapeMismatch {
            expected: format!("{} channels, which this model restores together", facts.channels),
            found: format!("{} (axes {})", info.shape.c, info.axes),
        });
    }
    if let Some(fitted) = options.fitted.as_ref().filter(|fitted| fitted.len() != info.shape.c) {
        return Err(Error::InvalidOption(format!(
            "fitted: statistics of {} channels for an image of which {} are restored",
            fitted.len(),
            info.shape.c
        )));
    }
    let [z, y, x] = model.network().field().scale;
    info.shape = Shape { z: info.shape.z * z, y: info.shape.y * y, x: info.shape.x * x, ..info.shape };
    info.pixel_type = PixelType::F32;
    if let Some(size) = positive("pixel size", options.pixel_size_um)? {
        (info.pixel_size_um, info.pixel_size_y_um, info.extra.y_unit) = (Some(size), None, None);
    }
    info.pixel_size_um = info.pixel_size_um.map(|size| size / x as f64);
    info.pixel_size_y_um = info.pixel_size_y_um.map(|size| size / y as f64);
    info.z_step_um = positive("z step", options.z_step_um)?.or(input.z_step_um).map(|s| s / z as f64);
    let mut finer = [z, y, x].map(|scale| scale as f64);
    if options.is_axial(model) {
        let step = info.z_step_um;
        axial::resample_info(&mut info, [z, y, x])?;
        finer[0] = step.zip(info.z_step_um).map_or(1.0, |(before, after)| before / after);
    }
    tiff_io::rescale(&mut info.extra, finer);
    let note = Provenance {
        mdr: env!("CARGO_PKG_VERSION"),
        model: &facts.name,
        sha256: &facts.sha256,
        options: RestoreOptions { threads: None, memory_limit_mb: None, ..options.clone() },
    };
    info.provenance = serde_json::to_string(&note).expect("a struct of strings and numbers is JSON");
    Ok(info)
}

/// What a user should know before trusting the result: that planes lie closer together or farther apart than those that
/// an axial model was trained with.
pub fn caution(model: &Model, input: &ImageInfo, options: &RestoreOptions) -> Option<String> {
    let Facts { name, axial_step, .. } = model.facts();
    let [least, most] = axial_step.filter(|_| options.is_axial(model))?;
    let step = options.z_step_um.or(input.z_step_um)? / options.pixel_size_um.or(input.pixel_size_um)?;
    // Calibrations are rounded.
    let known = (0.99 * least..=1.01 * most).contains(&step);
    (!known).then(|| {
        let step = (step * 100.0).round() / 100.0;
        format!(
            "planes lie {step} pixels apart, and {name} was trained with {least} to {most}: do not trust \
             what it draws along Z"
        )
    })
}

/// The note from which a run can be repeated: what influences the pixels, and nothing else.
#[derive(Serialize)]
struct Provenance<'a> {
    mdr: &'a str,
    model: &'a str,
    sha256: &'a str,
    options: RestoreOptions,
}

/// Restores an image in memory.
///
/// # Errors
/// As [`restore_planes`].
pub fn restore(model: &Model, image: &Image, options: &RestoreOptions, progress: OnProgress) -> Result<Image> {
    let mut restored = Image::zeros(output_info(model, &image.info, options)?)?;
    restore_planes(model, &mut image.as_source(), &mut restored, options, progress)?;
    Ok(restored)
}

/// Restores plane by plane: a 2-D network visits every plane of T, C, Z. `sink` is to be as [`output_info`] says.
///
/// # Errors
/// Those of source and sink, [`Error::Inference`], [`Error::Cancelled`], and where image, model and options do not
/// fit.
pub fn restore_planes(
    model: &Model,
    source: &mut dyn PlaneSource,
    sink: &mut dyn PlaneSink,
    options: &RestoreOptions,
    progress: OnProgress,
) -> Result<()> {
    let output = output_info(model, source.info(), options)?;
    if options.is_axial(model) {
        return axial::restore_stack(model, source, &output, sink, options, progress);
    }
    let plan = Plan::new(model, source.info(), options)?;
    let total = plan.parts();
    let mut plane = Vec::new();
    let fitted = fit(model, source, options, &mut plane, &mut || progress(Progress { done: 0, total }))?;
    run(model, &plan, source, sink, &fitted, plane, progress)
}

/// Takes the statistics by which [`restore_planes`] normalises, one for each channel to be restored: what
/// [`RestoreOptions::fitted`] takes. `go_on` is asked before every plane.
///
/// # Errors
/// As [`restore_planes`].
pub fn fit_planes(
    model: &Model,
    source: &mut dyn PlaneSource,
    options: &RestoreOptions,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<Fitted>> {
    output_info(model, source.info(), options)?;
    fit(model, source, options, &mut Vec::new(), go_on)
}

/// Leaves in `plane` what it has read last.
pub(crate) fn fit(
    model: &Model,
    source: &mut dyn PlaneSource,
    options: &RestoreOptions,
    plane: &mut Vec<f32>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<Fitted>> {
    if let Some(fitted) = &options.fitted {
        return Ok(fitted.clone());
    }
    let normalization = options.normalization.unwrap_or(model.facts().normalization);
    let threads = threads(options);
    let channels = channels(source.info(), options);
    channels.map(|channel| normalization.fit_through(source, channel, threads, plane, go_on)).collect()
}

fn threads(options: &RestoreOptions) -> usize {
    options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())).min(1024)
}

/// Channels of the source that are restored.
fn channels(input: &ImageInfo, options: &RestoreOptions) -> Range<usize> {
    options.channel.map_or(0..input.shape.c, |channel| channel..channel + 1)
}

/// Restores plane by plane with normalisations that are fitted already. `plane` may hold the plane of a source that is
/// restored in one, which is not read then.
pub(crate) fn run(
    model: &Model,
    plan: &Plan,
    source: &mut dyn PlaneSource,
    sink: &mut dyn PlaneSink,
    fitted: &[Fitted],
    plane: Vec<f32>,
    progress: OnProgress,
) -> Result<()> {
    let mut only_plane = Some(plane).filter(|plane| plan.has_one_plane() && plane.len() == plan.shape.plane_len());
    let mut report = Progress { done: 0, total: plan.parts() };
    let mut go_on = |report: Progress| if progress(report) { Ok(()) } else { Err(Error::Cancelled) };
    go_on(report)?;

    let watch = Watch::default();
    let (to_workers, jobs) = mpsc::channel::<Job>();
    let (to_caller, results) = mpsc::channel::<(Job, Result<Vec<f32>>)>();
    let jobs = Mutex::new(jobs);
    std::thread::scope(|scope| {
        let mut workers = Vec::with_capacity(plan.threads);
        for _ in 0..plan.threads {
            let to_caller = to_caller.clone();
            let (jobs, watch) = (&jobs, &watch);
            let worker = move || {
                let mut input = Vec::new();
                loop {
                    let job = jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
                    let Ok(mut job) = job else { return };
                    if watch.stopped() {
                        return;
                    }
                    // A worker that died would be waited for.
                    let output = catch_unwind(AssertUnwindSafe(|| plan.run(model, &mut job, &mut input, watch)))
                        .unwrap_or_else(|panic| {
                            Err(Error::Inference(format!("a worker gave up: {}", reason(&*panic))))
                        });
                    if to_caller.send((job, output)).is_err() {
                        return;
                    }
                }
            };
            match std::thread::Builder::new().spawn_scoped(scope, worker) {
                Ok(worker) => workers.push(worker),
                Err(error) if workers.is_empty() => {
                    return Err(Error::Inference(format!("the system gives no thread: {error}")));
                }
                // Those that there are do it all.
                Err(_) => break,
            }
        }
        drop(to_caller);
        let outcome = (|| {
            let mut waiting = VecDeque::new();
            let mut units = plan.units();
            let mut under_way = 0;
            loop {
                while under_way < 2 * plan.threads && waiting.len() < plan.open_units() {
                    let Some(planes) = units.next() else { break };
                    let mut unit = Unit::read(plan, planes, fitted, source, only_plane.take())?;
                    let whole = (plan.tiles_per_unit() == 1).then(|| std::mem::take(&mut unit.samples));
                    let unit = Arc::new(unit);
                    for job in plan.jobs(&unit, whole) {
                        under_way += 1;
                        to_workers.send(job).map_err(|_| Error::Inference("all workers have stopped".into()))?;
                    }
                    waiting.push_back(Open::new(unit, plan));
                }
                let Some(front) = waiting.front() else { return Ok(()) };
                if front.is_complete(plan) {
                    let open = waiting.pop_front().expect("there is a front");
                    open.write(plan, fitted, sink)?;
                    continue;
                }
                let (job, output) = match results.recv_timeout(INTERVAL) {
                    Ok(result) => result,
                    Err(RecvTimeoutError::Timeout) => {
                        report.done = watch.done();
                        go_on(report)?;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Error::Inference("a worker stopped without a result".into()));
                    }
                };
                under_way -= 1;
                let open = waiting.iter_mut().find(|open| Arc::ptr_eq(&open.unit, &job.unit));
                open.expect("a unit stays open until its last tile").take(plan, job.tile, output?)?;
                report.done = watch.done();
                go_on(report)?;
            }
        })();
        watch.stop();
        drop(to_workers);
        // The scope would wait for the end of their work alone; a host may unload the library right after this call.
        let panicked = workers.into_iter().filter_map(|worker| worker.join().err()).count();
        model.network().release(KEPT_MEMORY);
        if panicked == 0 { outcome } else { Err(Error::Inference("a worker stopped without a result".into())) }
    })
}

/// How an image is cut, decided before the first pixel is read.
pub(crate) struct Plan {
    tilings: [AxisTiling; 3],
    scale: [usize; 3],
    /// Tiles that run at once.
    threads: usize,
    /// How each of them is run, and in which orientations.
    run: RunOptions,
    orientations: &'static [Orientation],
    /// Channels of the source to be restored.
    channels: Range<usize>,
    /// Channels the network takes at once.
    together: usize,
    volumetric: bool,
    shape: Shape,
    /// Whether each unit is one tile, whose result takes the place of its samples: what memory is planned for.
    over: bool,
}

impl Plan {
    pub(crate) fn new(model: &Model, input: &ImageInfo, options: &RestoreOptions) -> Result<Self> {
        let network = model.network();
        let field = network.field();
        let shape = input.shape;
        let volumetric = network.spatial_axes() == 3;
        let lengths = [if volumetric { shape.z } else { 1 }, shape.y, shape.x];
        let threads = threads(options);
        let multiple = model.multiple();
        let fixed = network.fixed();
        let orientations = options.orientations(model);
        // What is turned must fit either way.
        let turns = orientations.len() > orient::FLIPS.len();
        let constraint = |axis: usize| {
            let other = if turns && axis > 0 { 3 - axis } else { axis };
            Constraint {
                halo: field.halo.map_or(0, |halo| halo[axis].max(halo[other])),
                multiple: lcm(multiple[axis], multiple[other]),
                fixed: fixed[axis],
            }
        };
        let padded = [0, 1, 2].map(|axis| constraint(axis).padded(lengths[axis]));
        let whole = [0, 1, 2].map(|axis| AxisTiling::whole(lengths[axis], constraint(axis)));

        let mut plan = Self {
            tilings: whole,
            scale: field.scale,
            threads: 1,
            run: RunOptions { threads, precise: options.precise },
            orientations,
            together: model.facts().channels,
            volumetric,
            shape,
            channels: channels(input, options),
            over: network.is_streamed(),
        };
        let limit = options.memory_limit_mb.unwrap_or(DEFAULT_MEMORY_LIMIT_MB).saturating_mul(1 << 20);
        let impossible = |needed: u64, why: &str| {
            Error::InvalidOption(format!(
                "memory limit {} MB: {why} about {} MB; raise the limit",
                limit >> 20,
                (needed >> 20) + 1
            ))
        };

        let too_small = |axis: usize| {
            let Constraint { halo, multiple, fixed } = constraint(axis);
            fixed.is_some_and(|side| {
                padded[axis] > side && (field.halo.is_none() || side < 2 * halo.next_multiple_of(multiple) + multiple)
            })
        };
        if let Some(axis) = (0..3).find(|&axis| too_small(axis)) {
            return Err(Error::ShapeMismatch {
                expected: format!("at most {} pixels along {}", fixed[axis].unwrap_or(0), ["Z", "Y", "X"][axis]),
                found: format!(
                    "{}; this model takes one size only and cannot be tiled ({})",
                    lengths[axis],
                    field.reason.as_deref().unwrap_or("its field is larger than its input")
                ),
            });
        }
        // At least, and before tiles are listed: of a size that some header claims, there may be more of them than memory
        // holds.
        let least = plan.planes_memory(LEAST_OPEN_UNITS);
        if least > limit {
            return Err(impossible(least, "the planes under way alone need"));
        }
        if field.halo.is_none() {
            plan.over = plan.can_overwrite(model);
            let tile = plan.tile_memory(model, 1);
            if plan.memory(tile) > limit {
                let reason = field.reason.as_deref().unwrap_or("unknown");
                return Err(impossible(plan.memory(tile), &format!("this model cannot be tiled ({reason}) and needs")));
            }
            plan.spread(model, threads, limit);
            return Ok(plan);
        }

        // Of every candidate side the one with the least work that fits. Which tiles there are depends on the image
        // and the limit alone, not on the threads: the result must not.
        let longest = padded.into_iter().max().unwrap_or(1);
        let overlap = options.overlap.unwrap_or(0).min(longest);
        let largest = if network.is_streamed() { LARGEST_STREAMED_TILE } else { LARGEST_TILE };
        let sides: Vec<usize> = match options.tile {
            Some(tile) => vec![tile.min(longest)],
            None => {
                let parts = (1..=8).map(|parts| padded[1].max(padded[2]).div_ceil(parts));
                let usual = [4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 192, 128, 96, 64, 32, 1];
                let whole = |side: usize| network.is_streamed() && (longest..=LARGEST_WHOLE).contains(&side);
                parts.chain(usual).filter(|&side| side <= largest || whole(side)).collect()
            }
        };
        let mut best: Option<(u64, [AxisTiling; 3])> = None;
        let mut smallest = u64::MAX;
        for side in sides {
            let counts = [0, 1, 2].map(|axis| AxisTiling::count(lengths[axis], side, overlap, constraint(axis)));
            if product(&counts) > MOST_TILES {
                continue;
            }
            plan.tilings = [0, 1, 2].map(|axis| {
                let (len, constraint) = (lengths[axis], constraint(axis));
                let tiling = AxisTiling::new(len, side, overlap, constraint);
                if options.tile.is_some() { tiling } else { tiling.balanced(len, overlap, constraint) }
            });
            let area: u64 = plan.tilings.iter().map(|tiling| tiling.side() as u64).product();
            let work = plan.total().saturating_mul(area + TILE_OVERHEAD);
            if best.as_ref().is_some_and(|(least, _)| work >= *least) {
                continue;
            }
            plan.over = plan.can_overwrite(model);
            let tile = plan.tile_memory(model, 1);
            smallest = smallest.min(plan.memory(tile));
            if plan.memory(tile) > limit {
                continue;
            }
            // Rather small tiles than few threads.
            let crowded = if network.is_streamed() {
                plan.memory(plan.tile_memory(model, USUAL_THREADS)) > limit
            } else {
                let several = Self {
                    threads: USUAL_THREADS,
                    tilings: plan.tilings.clone(),
                    channels: plan.channels.clone(),
                    ..plan
                };
                several.memory(tile) > limit
            };
            let work = work.saturating_mul(if crowded { CROWDED } else { 1 });
            if best.as_ref().is_none_or(|(least, _)| work < *least) {
                best = Some((work, plan.tilings.clone()));
            }
        }
        let Some((_, tilings)) = best else {
            return Err(match smallest {
                u64::MAX => Error::InvalidOption(format!(
                    "more than {MOST_TILES} tiles would be needed; choose larger ones, or restore the image in parts"
                )),
                smallest => impossible(smallest, "this image with this model needs"),
            });
        };
        plan.tilings = tilings;
        plan.over = plan.can_overwrite(model);
        plan.spread(model, threads, limit);
        Ok(plan)
    }

    /// Gives every thread a tile of its own where there are many tiles, else several threads to a tile.
    fn spread(&mut self, model: &Model, threads: usize, limit: u64) {
        let total = usize::try_from(self.total()).unwrap_or(usize::MAX);
        self.threads = if model.network().is_streamed() && total < 2 * threads { 1 } else { threads.min(total) };
        self.run.threads = threads / self.threads;
        while self.threads > 1 && self.memory(self.tile_memory(model, self.run.threads)) > limit {
            self.threads -= 1;
        }
        self.run.threads = threads / self.threads;
        while self.run.threads > 1 && self.memory(self.tile_memory(model, self.run.threads)) > limit {
            self.run.threads -= 1;
        }
    }

    /// Whether results take the place of what they are made of.
    fn can_overwrite(&self, model: &Model) -> bool {
        let tile = [0, 1, 2].map(|axis| self.tilings[axis].side());
        let alone = self.tiles_per_unit() == 1 && self.orientations.len() == 1;
        alone && model.network().memory_over_bytes(tile, self.run).is_some()
    }

    /// Bytes that a tile needs while so many threads run it. Where tract runs it, what the allocator keeps of what was
    /// freed is as much again.
    fn tile_memory(&self, model: &Model, team: usize) -> u64 {
        let tile = [0, 1, 2].map(|axis| self.tilings[axis].side());
        let scale = 1 + self.scale.iter().product::<usize>();
        let buffers = product(&[4 * self.together * scale, tile[0], tile[1], tile[2]]);
        let run = RunOptions { threads: team, ..self.run };
        if self.over
            && let Some(needed) = model.network().memory_over_bytes(tile, run)
        {
            // What is enlarged for the network's sake is copied.
            let copied = self.tilings.iter().any(|tiling| tiling.spans[0].read != tiling.spans[0].write);
            return needed + if copied { product(&[4 * self.together, tile[0], tile[1], tile[2]]) } else { 0 };
        }
        // Beside the tile itself, one that is turned, and beside the result the mean.
        let buffers = if self.orientations.len() > 1 { buffers.saturating_mul(2) } else { buffers };
        let sides = self.orientations.iter().map(|orientation| orientation.sides(tile));
        let needed = sides.map(|tile| model.network().memory_bytes(tile, run)).max().unwrap_or(0);
        let needed = needed.saturating_add(buffers);
        if model.network().is_streamed() { needed } else { needed.saturating_mul(2) }
    }

    /// Bytes at the peak: the tiles that run, and the planes under way. Too many for u64 count as its maximum.
    fn memory(&self, tile: u64) -> u64 {
        let planes = self.planes_memory(self.open_units());
        tile.saturating_mul(self.threads as u64).saturating_add(planes).saturating_add(OVERHEAD)
    }

    /// Bytes of the planes where so many units are under way.
    fn planes_memory(&self, open: usize) -> u64 {
        let Shape { y, x, .. } = self.shape;
        let scale = if self.over { 1 } else { 1 + self.scale.iter().product::<usize>() };
        let (planes, open) = (self.planes_per_unit(), open.min(self.units().len()));
        // One more is read or written meanwhile, if there is one.
        let next = if self.has_one_plane() { 0 } else { product(&[4 * scale, y, x]) };
        product(&[4 * scale, planes, y, x, open]).saturating_add(next)
    }

    /// Units under way at once: enough for every thread to have a tile and another one to go on with.
    fn open_units(&self) -> usize {
        1 + (2 * self.threads).div_ceil(self.tiles_per_unit())
    }

    fn tile_counts(&self) -> [usize; 3] {
        [0, 1, 2].map(|axis| self.tilings[axis].spans.len())
    }

    /// How often the network runs on a unit for one tile position: once per group of channels.
    fn groups(&self) -> usize {
        if self.volumetric { self.channels.len() / self.together } else { 1 }
    }

    fn tiles_per_unit(&self) -> usize {
        self.groups() * self.tile_counts().iter().product::<usize>()
    }

    fn planes_per_unit(&self) -> usize {
        if self.volumetric { self.channels.len() * self.shape.z } else { self.together }
    }

    /// Whether what is restored is a single plane.
    fn has_one_plane(&self) -> bool {
        self.units().len() == 1 && self.planes_per_unit() == 1
    }

    /// Does something to each sample of a unit that is read or written. Where there is a single tile, in as many threads as
    /// run it, which have nothing else to do then.
    fn each_piece(&self, samples: &mut [f32], work: impl Fn(&mut [f32]) + Sync) {
        let threads = if self.total() == 1 { self.run.threads } else { 1 };
        share(samples.chunks_mut(PIECE), threads, |next| {
            while let Some(piece) = next() {
                work(piece);
            }
        });
    }

    /// Tiles in all.
    fn total(&self) -> u64 {
        self.units().len() as u64 * self.tiles_per_unit() as u64
    }

    /// The same in hundredths of a tile: what [`run`] reports as the whole.
    pub(crate) fn parts(&self) -> u64 {
        self.total().saturating_mul(Watch::TILE * self.orientations.len() as u64)
    }

    /// The planes of every unit, in the order in which planes are written.
    fn units(&self) -> Units<'_> {
        Units { plan: self, next: 0 }
    }

    fn jobs(&self, unit: &Arc<Unit>, mut whole: Option<Vec<f32>>) -> impl Iterator<Item = Job> {
        (0..self.tiles_per_unit()).map(move |tile| Job { unit: unit.clone(), tile, whole: whole.take() })
    }

    /// Group of channels and index of the tile along Z, Y, X.
    fn position(&self, tile: usize) -> (usize, [usize; 3]) {
        let [z, y, x] = self.tile_counts();
        (tile / (x * y * z), [tile / (x * y) % z, tile / x % y, tile % x])
    }

    /// Cuts a tile, pads it, and runs the network: samples in the order C, Z, Y, X. `input` is reused.
    fn run(&self, model: &Model, job: &mut Job, input: &mut Vec<f32>, watch: &Watch) -> Result<Vec<f32>> {
        let (group, index) = self.position(job.tile);
        let reads = [0, 1, 2].map(|axis| self.tilings[axis].spans[index[axis]].read.clone());
        let lengths = job.unit.lengths;
        let tile = reads.clone().map(|read| read.len());
        let network = model.network();
        let alone = self.orientations.len() == 1;
        let run = |samples: &[f32]| {
            let mut output = Vec::new();
            if alone {
                network.run_into(samples, tile, &mut output, self.run, watch)?;
                return Ok(output);
            }
            orient::mean(network, self.orientations, samples, tile, self.run, watch)
        };
        let whole = match job.whole.take() {
            Some(samples) if tile == lengths && alone => return network.run_over(samples, tile, self.run, watch),
            Some(samples) if tile == lengths => return run(&samples),
            whole => whole,
        };
        if tile == lengths {
            let samples = self.together * lengths.iter().product::<usize>();
            return run(&job.unit.samples[group * samples..][..samples]);
        }
        let samples = whole.as_ref().unwrap_or(&job.unit.samples);
        input.clear();
        input.reserve_exact(self.together * tile.iter().product::<usize>());
        for channel in group * self.together..(group + 1) * self.together {
            for z in reads[0].clone() {
                for y in reads[1].clone() {
                    let row = (channel * lengths[0] + reflect(z, lengths[0])) * lengths[1] + reflect(y, lengths[1]);
                    let row = &samples[row * lengths[2]..(row + 1) * lengths[2]];
                    let inside = reads[2].start.min(lengths[2])..reads[2].end.min(lengths[2]);
                    input.extend_from_slice(&row[inside.clone()]);
                    input.extend((inside.end..reads[2].end).map(|x| row[reflect(x, lengths[2])]));
                }
            }
        }
        if let Some(samples) = whole.filter(|_| alone) {
            drop(samples);
            return network.run_over(std::mem::take(input), tile, self.run, watch);
        }
        run(input)
    }
}

/// What a panic says.
fn reason(panic: &dyn Any) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("for no reason that is known")
}

/// How long a caller that could cancel is not asked.
const INTERVAL: Duration = Duration::from_millis(50);

/// No tile is chosen larger than this where tract runs it: beyond it halos cost little, and touching new memory costs
/// a lot.
const LARGEST_TILE: usize = 640;

/// The same where memory hardly depends on the tile.
const LARGEST_STREAMED_TILE: usize = 4096;

/// Longest side of an image that is taken in one.
const LARGEST_WHOLE: usize = 1 << 15;

/// Units under way, or more where they have few tiles.
const LEAST_OPEN_UNITS: usize = 2;

/// No tiling of a unit has more tiles: each of them is known from the start.
const MOST_TILES: u64 = 1 << 20;

/// Threads that memory is planned for before it is known how many there are.
const USUAL_THREADS: usize = 4;

/// How many times the work counts where memory is too small for those.
const CROWDED: u64 = 2;

/// Bytes that are there before the first pixel: the program, the model and its plan.
const OVERHEAD: u64 = 40 << 20;

/// What a tile costs beside its pixels, in pixels.
const TILE_OVERHEAD: u64 = 500;

/// Pixels that are further from 0 than this once they are normalised count as not finite: what stands for "no data" in
/// images of floats, such as the smallest of their numbers, would overflow in a network, all around.
const LARGEST_NORMALIZED: f64 = 1e30;

/// Product that stops at the largest number.
fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |all: u64, &factor| all.saturating_mul(factor as u64))
}

/// Lists of planes, one list per unit.
struct Units<'a> {
    plan: &'a Plan,
    next: usize,
}

impl Units<'_> {
    fn counts(&self) -> [usize; 3] {
        let Plan { shape, channels, together, volumetric, .. } = self.plan;
        if *volumetric { [shape.t, 1, 1] } else { [shape.t, shape.z, channels.len() / together] }
    }

    fn len(&self) -> usize {
        self.counts().iter().product()
    }
}

impl Iterator for Units<'_> {
    type Item = Vec<PlaneIndex>;

    fn next(&mut self) -> Option<Vec<PlaneIndex>> {
        if self.next == self.len() {
            return None;
        }
        let [_, z, groups] = self.counts();
        let unit = self.next;
        self.next += 1;
        let Plan { shape, channels, together, volumetric, .. } = self.plan;
        let t = unit / (z * groups);
        Some(if *volumetric {
            channels.clone().flat_map(|c| (0..shape.z).map(move |z| PlaneIndex { t, c, z })).collect()
        } else {
            let (z, group) = (unit / groups % z, unit % groups);
            channels.clone().skip(group * together).take(*together).map(|c| PlaneIndex { t, c, z }).collect()
        })
    }
}

/// What one canvas holds, normalised: samples in the order C, Z, Y, X.
struct Unit {
    planes: Vec<PlaneIndex>,
    lengths: [usize; 3],
    /// None where they are with the only job ([`Job::whole`]).
    samples: Vec<f32>,
    /// Position in the samples and value of the pixels that are not finite, or so large that a network would not stay so.
    not_counted: Vec<(usize, f32)>,
}

impl Unit {
    /// What is in `only_plane` is not read again.
    fn read(
        plan: &Plan,
        planes: Vec<PlaneIndex>,
        fitted: &[Fitted],
        source: &mut dyn PlaneSource,
        only_plane: Option<Vec<f32>>,
    ) -> Result<Self> {
        let lengths = [if plan.volumetric { plan.shape.z } else { 1 }, plan.shape.y, plan.shape.x];
        let len = plan.shape.plane_len();
        let is_read = only_plane.is_some();
        let samples = match only_plane {
            Some(plane) => plane,
            None => zeros(len * planes.len())
                .map_err(|_| Error::InvalidOption(format!("planes of {lengths:?} exceed the memory")))?,
        };
        let mut unit = Self { samples, planes, lengths, not_counted: Vec::new() };
        for (i, &plane) in unit.planes.iter().enumerate() {
            let samples = &mut unit.samples[i * len..(i + 1) * len];
            if !is_read {
                source.read_plane(plane, samples)?;
            }
            let fitted = fitted[plan.fitted(plane)];
            let (least, most) = fitted.within(LARGEST_NORMALIZED).into_inner();
            let counts = |value: f32| value >= least && value <= most;
            if !plan.all(samples, counts) {
                if !samples.iter().any(|&value| counts(value)) && samples.iter().any(|value| value.is_finite()) {
                    return Err(Error::Inference(format!(
                        "every pixel of a plane is beyond {LARGEST_NORMALIZED:e} once it is normalised: the model's \
                         normalisation does not suit the image"
                    )));
                }
                for (at, value) in samples.iter_mut().enumerate().filter(|(_, value)| !counts(**value)) {
                    unit.not_counted.push((i * len + at, *value));
                    *value = f32::NAN;
                }
                fill(samples, plan.shape.x);
            }
            plan.each_piece(samples, |piece| fitted.apply(piece));
        }
        Ok(unit)
    }
}

impl Plan {
    /// Whether all samples are such. Every one is asked: without a way out of the loop, it is vectorised.
    fn all(&self, samples: &mut [f32], is_such: impl Fn(f32) -> bool + Sync) -> bool {
        let all = AtomicBool::new(true);
        self.each_piece(samples, |piece| {
            if piece.iter().fold(false, |found, &value| found | !is_such(value)) {
                all.store(false, Ordering::Relaxed);
            }
        });
        all.into_inner()
    }

    /// Which of the fitted normalisations belongs to a plane.
    fn fitted(&self, plane: PlaneIndex) -> usize {
        plane.c - self.channels.start
    }
}

/// Replaces every value that is not finite by the nearest finite one of its row, or else of the row before; a plane
/// without any becomes 0.
fn fill(samples: &mut [f32], width: usize) {
    let mut previous: Vec<f32> = match samples.chunks(width).find(|row| row.iter().any(|value| value.is_finite())) {
        Some(row) => row.to_vec(),
        None => vec![0.0; width],
    };
    fill_row(&mut previous);
    for row in samples.chunks_mut(width) {
        if row.iter().any(|value| value.is_finite()) {
            fill_row(row);
        } else {
            row.copy_from_slice(&previous);
        }
        previous.copy_from_slice(row);
    }
}

fn fill_row(row: &mut [f32]) {
    let finite: Vec<usize> = (0..row.len()).filter(|&x| row[x].is_finite()).collect();
    for x in 0..row.len() {
        if !row[x].is_finite() {
            let after = finite.partition_point(|&at| at < x);
            let nearest = finite[after.saturating_sub(1)..].iter().take(2).min_by_key(|at| at.abs_diff(x));
            row[x] = nearest.map_or(0.0, |&at| row[at]);
        }
    }
}

/// One tile to be run.
struct Job {
    unit: Arc<Unit>,
    tile: usize,
    /// The unit's samples, where it is one tile: the result may take their place.
    whole: Option<Vec<f32>>,
}

/// A unit whose tiles are under way.
struct Open {
    unit: Arc<Unit>,
    /// One per group of channels.
    canvases: Vec<Canvas>,
    /// The next tile to be blended.
    next: usize,
    /// Outputs that came before their turn.
    early: BTreeMap<usize, Vec<f32>>,
}

impl Open {
    fn new(unit: Arc<Unit>, plan: &Plan) -> Self {
        let canvases = (0..plan.groups()).map(|_| Canvas::new(plan.together, unit.lengths, plan.scale)).collect();
        Self { unit, canvases, next: 0, early: BTreeMap::new() }
    }

    fn take(&mut self, plan: &Plan, tile: usize, output: Vec<f32>) -> Result<()> {
        self.early.insert(tile, output);
        while let Some(output) = self.early.remove(&self.next) {
            let (group, index) = plan.position(self.next);
            let canvas = &mut self.canvases[group];
            if plan.tilings.iter().all(|tiling| tiling.spans.len() == 1) && output.len() == canvas.len() {
                canvas.replace(output);
            } else {
                canvas.add(&plan.tilings, index, &output)?;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn is_complete(&self, plan: &Plan) -> bool {
        self.next == plan.tiles_per_unit()
    }

    fn write(self, plan: &Plan, fitted: &[Fitted], sink: &mut dyn PlaneSink) -> Result<()> {
        let [sz, sy, sx] = plan.scale;
        let [_, y, x] = self.unit.lengths;
        let (out_x, out_len) = (x * sx, y * sy * x * sx);
        let mut samples: Vec<Vec<f32>> = self.canvases.into_iter().map(Canvas::into_samples).collect();
        let outputs = samples.iter_mut().flat_map(|samples| samples.chunks_mut(out_len)).enumerate();
        let mut outputs: Vec<_> = outputs
            .map(|(i, samples)| {
                let input = self.unit.planes[i / sz];
                let fitted = fitted[plan.fitted(input)];
                plan.each_piece(samples, |piece| fitted.undo(piece));
                if !plan.all(samples, f32::is_finite) {
                    return Err(Error::Inference(
                        "the network has made values that are not finite of pixels that are: its weights are damaged, or \
                         its normalisation does not suit the image"
                            .into(),
                    ));
                }
                let index = PlaneIndex { t: input.t, c: input.c - plan.channels.start, z: input.z * sz + i % sz };
                Ok((index, samples))
            })
            .collect::<Result<_>>()?;
        for &(at, value) in &self.unit.not_counted {
            let (plane, row, column) = (at / (y * x), at / x % y, at % x);
            for z in 0..sz {
                for dy in 0..sy {
                    let start = (row * sy + dy) * out_x + column * sx;
                    outputs[plane * sz + z].1[start..start + sx].fill(value);
                }
            }
        }
        outputs.sort_by_key(|(index, _)| (index.z, index.c));
        outputs.into_iter().try_for_each(|(index, samples)| sink.write_plane(index, samples))
    }
}
