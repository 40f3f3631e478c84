//! results.json and the run folders of a benchmark → report.html: the table of methods beside the published one, Figure 3,
//! ablations, pictures, learning curves, times. It can be made again at any time: no figure comes from elsewhere.

use crate::benchmark::{self, Cell, Figures, Group, Results, State};
use crate::html::{self, Boxes, Line, escaped};
use crate::pairs;
use crate::train::{RunFolder, write};
use anyhow::{Context, Result};
use mdr::montage::{self, Panel};
use mdr::{Task, metrics, tiff_io};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Side in pixels of the middle of an example that is shown.
const PICTURE_SIDE: usize = 192;

/// PSNR in dB and SSIM for denoise, axial, super-resolve, as Razdaibiedina, Velayutham and Modi published them in 2019
/// (Multi-defect microscopy image restoration under limited data conditions), on data sets of their own.
const PUBLISHED: [(&str, [(f64, f64); 3]); 6] = [
    ("input", [(19.92, 0.63), (12.51, 0.33), (7.27, 0.08)]),
    ("CARE", [(21.6, 0.56), (12.8, 0.29), (14.1, 0.20)]),
    ("DeblurGAN", [(18.0, 0.33), (14.6, 0.20), (11.2, 0.14)]),
    ("ours, 10 pairs", [(22.4, 0.56), (17.4, 0.38), (14.3, 0.22)]),
    ("CycleGAN", [(21.3, 0.49), (15.3, 0.27), (12.7, 0.14)]),
    ("ours, no pairs", [(21.9, 0.57), (15.1, 0.32), (8.9, 0.07)]),
];

/// Writes report.html into the folder of a benchmark, from its results.json. `data` is where its test images are, for the
/// pictures.
///
/// # Errors
/// Where results.json cannot be read or the report cannot be written.
pub fn write_report(out: &Path, data: &Path) -> Result<()> {
    let path = benchmark::results_path(out);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let results: Results = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let report = Report { results: &results, out, data };
    write(&out.join("report.html"), report.html().as_bytes())
}

struct Report<'a> {
    results: &'a Results,
    out: &'a Path,
    data: &'a Path,
}

/// A group with one of its numbers of pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    group: usize,
    pairs: Option<usize>,
}

/// One figure of a row's test images of a task.
#[derive(Clone, Debug)]
struct Summary {
    mean: f64,
    /// Over the means of the seeds; none of one seed.
    over_seeds: Option<f64>,
    /// Over the images, each the mean of its seeds.
    over_images: Option<f64>,
}

type Figure = fn(&Figures) -> f64;
const AFFINE: [Figure; 2] = [|f| f.psnr_affine, |f| f.ssim_affine];
const PLAIN: [Figure; 2] = [|f| f.psnr, |f| f.ssim];

impl Report<'_> {
    fn html(&self) -> String {
        let mut html = html::head(&self.results.title);
        self.budget(&mut html);
        let main: Vec<Row> = self.rows(|group| group.ablation.is_none());
        html.push_str(
            "<h2>Test images: PSNR (dB) and SSIM after fitting gain and offset</h2><p>Mean over the images ± standard \
             deviation over the seeds (where there are several); small: standard deviation over the images. Reference \
             scaled by its percentiles 0.1 and 99.9, data range 1, uniform 7x7 SSIM window. <i>Published, other \
             data</i>: Razdaibiedina, Velayutham and Modi 2019, <i>Multi-defect microscopy image restoration under \
             limited data conditions</i>; a shape to compare with, not numbers to equal. Bold: the best PSNR.</p>",
        );
        self.scores(&mut html, &main, AFFINE, true);
        self.subsets(&mut html, &main);
        self.figure_3(&mut html);
        self.ablations(&mut html);
        self.pictures(&mut html, &main);
        self.curves(&mut html);
        html.push_str(
            "<h2>Without fitting gain and offset</h2><p>As above; the percentiles 0.1 and 99.9 of the degraded image \
             become 0 and 1 (<i>scale input</i>).</p>",
        );
        self.scores(&mut html, &main, PLAIN, false);
        self.times(&mut html);
        html.push_str("</html>");
        html
    }

    fn tasks(&self) -> Vec<Task> {
        self.results.examples.iter().map(|(task, _)| *task).collect()
    }

    fn label(&self, row: Row) -> String {
        self.results.groups[row.group].label.clone()
    }

    /// What restores (a synthesiser finishes without a figure), in the order of the table: models first, then many pairs
    /// before few.
    fn rows(&self, wanted: impl Fn(&Group) -> bool) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for cell in &self.results.cells {
            let (group, row) = (&self.results.groups[cell.group], Row { group: cell.group, pairs: cell.pairs });
            let synthesises = cell.state == State::Finished && cell.scores.is_empty();
            if !synthesises && wanted(group) && !rows.contains(&row) {
                rows.push(row);
            }
        }
        rows.sort_by_key(|row| (row.pairs.is_some(), std::cmp::Reverse(row.pairs), row.group));
        rows
    }

    /// A row's finished cells for a task.
    fn cells(&self, row: Row, task: Task) -> impl Iterator<Item = &Cell> {
        let of = move |cell: &&Cell| cell.group == row.group && cell.pairs == row.pairs && cell.tasks.contains(&task);
        self.results.cells.iter().filter(of).filter(|cell| cell.state == State::Finished)
    }

    /// A row's figure of every image, by name, one for each seed.
    fn images(&self, row: Row, task: Task, figure: Figure) -> BTreeMap<&str, Vec<f64>> {
        let mut images: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let scores = self.cells(row, task).flat_map(|cell| &cell.scores).filter(|scores| scores.task == task);
        for image in scores.flat_map(|scores| &scores.images) {
            images.entry(&image.name).or_default().push(figure(&image.figures));
        }
        images
    }

    /// A row's mean of each seed.
    fn seeds(&self, row: Row, task: Task, figure: Figure) -> Vec<(Option<u64>, f64)> {
        let mean = |cell: &Cell| {
            let scores = cell.scores.iter().find(|scores| scores.task == task)?;
            Some((cell.seed, figure(&scores.mean)))
        };
        self.cells(row, task).filter_map(mean).collect()
    }

    fn summary(&self, row: Row, task: Task, figure: Figure) -> Option<Summary> {
        let seeds: Vec<f64> = self.seeds(row, task, figure).into_iter().map(|(_, mean)| mean).collect();
        let images: Vec<f64> = self.images(row, task, figure).values().filter_map(|values| mean(values)).collect();
        Some(Summary { mean: mean(&seeds)?, over_seeds: deviation(&seeds), over_images: deviation(&images) })
    }

    fn budget(&self, html: &mut String) {
        let Results { date, machine, set, cells, groups, .. } = self.results;
        let mut machines: Vec<&str> = Vec::new();
        for cell in cells.iter().filter(|cell| cell.seed.is_some() && cell.state == State::Finished) {
            if !machines.contains(&&*cell.machine) {
                machines.push(&cell.machine);
            }
        }
        if machines.is_empty() {
            machines.push(machine);
        }
        let count = |state| cells.iter().filter(|cell| cell.state == state).count();
        let seconds: f64 = cells.iter().map(|cell| cell.seconds).sum();
        let images: Vec<String> = (self.tasks().into_iter())
            .map(|task| {
                let of = cells.iter().flat_map(|cell| &cell.scores).find(|scores| scores.task == task);
                format!("{task} {}", of.map_or(0, |scores| scores.images.len()))
            })
            .collect();
        let _ = write!(
            html,
            "<p>{date}; trained on {}; {} in all. {} cells finished, {} failed, {} still to do. Test images: {}.{}</p>",
            escaped(&machines.join("; ")),
            duration(seconds),
            count(State::Finished),
            count(State::Failed),
            count(State::Open),
            images.join(", "),
            if set.is_empty() {
                String::new()
            } else {
                format!(" <b>Changed for all: {}.</b>", escaped(&set.join(", ")))
            },
        );
        html.push_str("<details><summary>What was trained</summary><table><tr><th>group<th>config<th>changes<th>steps<th>seeds</tr>");
        for (number, group) in groups.iter().enumerate() {
            let of = || cells.iter().filter(move |cell| cell.group == number);
            let (Some(cell), Some(config)) = (of().next(), &group.config) else { continue };
            let mut seeds: Vec<u64> = of().filter_map(|cell| cell.seed).collect();
            seeds.sort_unstable();
            seeds.dedup();
            let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
            let _ = write!(
                html,
                "<tr><td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                escaped(&group.label),
                escaped(&config.display().to_string()),
                escaped(&group.set.join(" ")),
                cell.steps[1],
                seeds.join(", ")
            );
        }
        html.push_str("</table></details>");
    }

    /// A table of rows by tasks.
    fn scores(&self, html: &mut String, rows: &[Row], figures: [Figure; 2], published: bool) {
        let tasks = self.tasks();
        html.push_str("<table><tr><th>method<th>training pairs");
        for task in &tasks {
            let _ = write!(html, "<th>{task}{}", if published { "<th>published, other data" } else { "" });
        }
        html.push_str("</tr>");
        let psnr = |row: Row, task| self.summary(row, task, figures[0]).map_or(f64::NEG_INFINITY, |psnr| psnr.mean);
        let best: Vec<f64> = (tasks.iter())
            .map(|&task| rows.iter().map(|&row| psnr(row, task)).fold(f64::NEG_INFINITY, f64::max))
            .collect();
        for &row in rows {
            let pairs = row.pairs.map_or("–".to_owned(), |pairs| pairs.to_string());
            let _ = write!(html, "<tr><td>{}<td>{pairs}", escaped(&self.label(row)));
            for (&task, best) in tasks.iter().zip(&best) {
                let [psnr, ssim] = figures.map(|figure| self.summary(row, task, figure));
                html.push_str("<td>");
                if let (Some(psnr), Some(ssim)) = (psnr, ssim) {
                    let [open, close] = if psnr.mean >= *best { ["<b>", "</b>"] } else { [""; 2] };
                    let _ = write!(
                        html,
                        "{open}{:.2}{} / {:.3}{}{close}<br><small>{} / {}</small>",
                        psnr.mean,
                        plus_minus(psnr.over_seeds, 2),
                        ssim.mean,
                        plus_minus(ssim.over_seeds, 3),
                        plus_minus(psnr.over_images, 1).trim(),
                        plus_minus(ssim.over_images, 2).trim(),
                    );
                } else if let Some(failed) = self.failed(row, task) {
                    let _ = write!(html, "failed<br><small>{}</small>", escaped(&shortened(failed)));
                }
                if published {
                    html.push_str(&self.published(row, task));
                }
            }
            html.push_str("</tr>");
        }
        html.push_str("</table>");
    }

    fn failed(&self, row: Row, task: Task) -> Option<&str> {
        let of = |cell: &&Cell| cell.group == row.group && cell.pairs == row.pairs && cell.tasks.contains(&task);
        self.results.cells.iter().filter(of).find_map(|cell| cell.error.as_deref())
    }

    fn published(&self, row: Row, task: Task) -> String {
        let name = match (self.results.groups[row.group].published.as_deref(), row.pairs) {
            // The paper's table is of ten pairs: they stand beside the most that the row's method had.
            (_, Some(pairs))
                if pairs > 0
                    && self.results.cells.iter().any(|cell| cell.group == row.group && cell.pairs > Some(pairs)) =>
            {
                ""
            }
            (Some("ours"), Some(0)) => "ours, no pairs",
            (Some("ours"), _) => "ours, 10 pairs",
            (name, _) => name.unwrap_or_default(),
        };
        let place = Task::ALL.iter().position(|&known| known == task);
        let found = PUBLISHED.iter().find(|(known, _)| *known == name).zip(place);
        found.map_or("<td>".into(), |((_, figures), place)| {
            let (psnr, ssim) = figures[place];
            format!("<td>{psnr} / {ssim:.2}")
        })
    }

    /// Means over the subsets (the part of a name before the first `_`) of each task that has several.
    fn subsets(&self, html: &mut String, rows: &[Row]) {
        let subset = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
        for task in self.tasks() {
            let [psnr, ssim] = AFFINE.map(|figure| {
                let by_subset = |row: Row| {
                    let mut subsets: BTreeMap<String, Vec<f64>> = BTreeMap::new();
                    for (name, values) in self.images(row, task, figure) {
                        subsets.entry(subset(name)).or_default().extend(values);
                    }
                    subsets.into_iter().filter_map(|(name, values)| Some((name, mean(&values)?))).collect()
                };
                rows.iter().map(|&row| by_subset(row)).collect::<Vec<BTreeMap<String, f64>>>()
            });
            let names: Vec<String> =
                psnr.iter().find(|of| !of.is_empty()).map_or(vec![], |of| of.keys().cloned().collect());
            if !(2..=20).contains(&names.len()) {
                continue;
            }
            let input = rows.iter().position(|row| self.results.groups[row.group].model.as_deref() == Some("input"));
            let _ = write!(
                html,
                "<h3>{task}, by kind of image</h3><p>▼: worse than the input in PSNR.</p><div class=\"wide\"><table>\
                 <tr><th>method<th>training pairs"
            );
            html.extend(names.iter().map(|name| format!("<th>{}", escaped(name))));
            html.push_str("</tr>");
            for (number, &row) in rows.iter().enumerate().filter(|(number, _)| !psnr[*number].is_empty()) {
                let pairs = row.pairs.map_or("–".to_owned(), |pairs| pairs.to_string());
                let _ = write!(html, "<tr><td>{}<td>{pairs}", escaped(&self.label(row)));
                for name in &names {
                    let (Some(psnr_here), Some(ssim_here)) = (psnr[number].get(name), ssim[number].get(name)) else {
                        html.push_str("<td>");
                        continue;
                    };
                    let worse = input.and_then(|input| psnr[input].get(name)).is_some_and(|input| psnr_here < input);
                    let _ = write!(html, "<td>{psnr_here:.2} / {ssim_here:.3}{}", if worse { " ▼" } else { "" });
                }
                html.push_str("</tr>");
            }
            html.push_str("</table></div>");
        }
    }

    /// Box plots of SSIM over the images for each number of pairs, and what augmentation gains.
    fn figure_3(&self, html: &mut String) {
        let rows = self.rows(|group| group.figure.is_some());
        let name = |row: Row| self.results.groups[row.group].figure.as_deref().unwrap_or_default();
        let mut names: Vec<&str> = Vec::new();
        for group in &self.results.groups {
            names.extend(group.figure.as_deref().filter(|figure| !names.contains(figure)));
        }
        let mut numbers: Vec<usize> = rows.iter().filter_map(|row| row.pairs).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            return;
        }
        html.push_str(
            "<h2>What augmentation brings (Figure 3 of the paper)</h2><p>SSIM after fitting gain and offset, each dot a \
             test image (mean of the seeds); box: median and quartiles, whiskers: farthest value within 1.5 times their \
             distance.",
        );
        let mut beyond: Vec<(usize, usize)> = (self.results.beyond.iter())
            .filter(|beyond| self.results.groups[beyond.group].figure.is_some())
            .map(|beyond| (beyond.asked, beyond.available))
            .collect();
        beyond.sort_unstable();
        beyond.dedup();
        for (asked, available) in beyond {
            let _ = write!(html, " N = {asked}: the data have {available} pairs.");
        }
        html.push_str("</p>");
        html.push_str(&html::legend(names.iter().enumerate().map(|(number, name)| (*name, html::colour(number)))));
        for task in self.tasks() {
            let groups: Vec<Boxes> = (numbers.iter())
                .map(|&pairs| {
                    let boxes = names.iter().enumerate().filter_map(|(number, figure)| {
                        let row = rows.iter().find(|row| row.pairs == Some(pairs) && name(**row) == *figure)?;
                        let images = self.images(*row, task, AFFINE[1]);
                        Some((html::colour(number), images.values().filter_map(|values| mean(values)).collect()))
                    });
                    (format!("N = {pairs}"), boxes.collect())
                })
                .collect();
            html.push_str(&html::box_plots(&format!("{task}: SSIM"), &groups));
        }
        self.gains(html, &rows, &names, &numbers);
    }

    /// Differences of the boxes after the first to the first, seed by seed.
    fn gains(&self, html: &mut String, rows: &[Row], names: &[&str], numbers: &[usize]) {
        let row = |pairs: usize, figure: &str| {
            let is = |row: &&Row| {
                row.pairs == Some(pairs) && self.results.groups[row.group].figure.as_deref() == Some(figure)
            };
            rows.iter().find(is).copied()
        };
        let Some((first, others)) = names.split_first() else { return };
        let others = others.iter().flat_map(|other| numbers.iter().map(move |&pairs| (*other, pairs)));
        let gains = others.filter_map(|(other, pairs)| Some((other, row(pairs, other)?, row(pairs, first)?)));
        self.gain_table(html, first, gains);
    }

    /// What rows, each with a name, have more than those beside them.
    fn gain_table<'b>(&self, html: &mut String, base: &str, gains: impl Iterator<Item = (&'b str, Row, Row)>) {
        let _ = write!(html, "<p>Gain over “{}”: {GAIN}</p><table><tr><th>change<th>N", escaped(base));
        html.extend(self.tasks().iter().map(|task| format!("<th>{task}")));
        html.push_str("</tr>");
        for (name, with, without) in gains {
            let pairs = with.pairs.map_or(String::new(), |pairs| pairs.to_string());
            let _ = write!(html, "<tr><td>{}<td>{pairs}", escaped(name));
            for task in self.tasks() {
                let _ = write!(html, "<td>{}", self.gain(with, without, task));
            }
            html.push_str("</tr>");
        }
        html.push_str("</table>");
    }

    /// What one row has more than another on a task's test images; as [`GAIN`] says.
    fn gain(&self, with: Row, without: Row, task: Task) -> String {
        let gains = AFFINE.map(|figure| self.differences(with, without, task, figure));
        let [Some(psnr), Some(ssim)] = gains.each_ref().map(|gains| mean(gains)) else { return String::new() };
        let [psnr_spread, ssim_spread] = gains.each_ref().map(|gains| deviation(gains));
        let images = self.image_gains(with, without, task);
        let error = deviation(&images).map(|deviation| deviation / (images.len() as f64).sqrt());
        format!(
            "{psnr:+.2}{} / {ssim:+.3}{} <small>seeds: {}; images{}, {} of {} better</small>",
            plus_minus(psnr_spread, 2),
            plus_minus(ssim_spread, 3),
            gains[0].len(),
            plus_minus(error, 2),
            images.iter().filter(|&&gain| gain > 0.0).count(),
            images.len()
        )
    }

    /// Gain in dB of each test image, the mean over the seeds that both have.
    fn image_gains(&self, with: Row, without: Row, task: Task) -> Vec<f64> {
        let mut gains: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for after in self.cells(with, task) {
            let Some(before) = self.cells(without, task).find(|before| before.seed == after.seed) else { continue };
            let [after, before] = [after, before].map(|cell| cell.scores.iter().find(|scores| scores.task == task));
            let (Some(after), Some(before)) = (after, before) else { continue };
            let before = &before.images;
            for image in &after.images {
                if let Some(before) = before.iter().find(|before| before.name == image.name) {
                    let [after, before] = [image, before].map(|image| AFFINE[0](&image.figures));
                    gains.entry(&image.name).or_default().push(after - before);
                }
            }
        }
        gains.values().filter_map(|gains| mean(gains)).collect()
    }

    /// Of the seeds that both have.
    fn differences(&self, with: Row, without: Row, task: Task, figure: Figure) -> Vec<f64> {
        let without: BTreeMap<_, _> = self.seeds(without, task, figure).into_iter().collect();
        let with = self.seeds(with, task, figure).into_iter();
        with.filter_map(|(seed, with)| Some(with - without.get(&seed)?)).collect()
    }

    /// A table of each group that others are changes of, with these.
    fn ablations(&self, html: &mut String) {
        let mut heading = "<h2>Ablations</h2><p>The first row of each table is what the others are one change of.</p>";
        for (number, base) in self.results.groups.iter().enumerate() {
            let changes = self.rows(|group| group.ablation.as_ref() == Some(&base.label));
            let mut rows: Vec<Row> = Vec::new();
            for change in changes {
                let base = Row { group: number, ..change };
                if !rows.contains(&base) {
                    rows.push(base);
                }
                rows.push(change);
            }
            if !rows.is_empty() {
                html.push_str(std::mem::take(&mut heading));
                self.scores(html, &rows, AFFINE, false);
                let changes = rows
                    .iter()
                    .filter(|row| row.group != number)
                    .map(|&row| (self.results.groups[row.group].label.as_str(), row, Row { group: number, ..row }));
                self.gain_table(html, &base.label, changes);
            }
        }
    }

    /// A sheet for each task: a row for each example, a column for each method.
    fn pictures(&self, html: &mut String, rows: &[Row]) {
        html.push_str(
            "<h2>Examples</h2><p>The middle of test images, evenly chosen by name, first seed; each picture scaled by its \
             own percentiles 0.1 and 99.9. Number: training pairs.</p>",
        );
        for (task, examples) in &self.results.examples {
            let found = pairs::below(&benchmark::test_folder(self.data, *task)).unwrap_or_default();
            // A column for each group: that of the most pairs.
            let mut columns: Vec<Row> = Vec::new();
            for &row in rows {
                if self.cells(row, *task).next().is_some() && columns.iter().all(|column| column.group != row.group) {
                    columns.push(row);
                }
            }
            let folder = benchmark::test_folder(self.data, *task);
            let mut sheet: Vec<Vec<Shown>> = Vec::new();
            for example in examples {
                let restored = |&row: &Row| {
                    let pairs = row.pairs.map_or(String::new(), |pairs| format!(" {pairs}"));
                    let path = benchmark::example_path(self.out, self.cells(row, *task).next()?, *task, example);
                    Shown::read(&path, format!("{}{pairs}", self.label(row)))
                };
                let entry = found.iter().find(|entry| entry.degraded.as_ref() == Some(example));
                let reference = entry.and_then(|entry| entry.reference.as_ref());
                let reference = reference.and_then(|path| Shown::read(&folder.join(path), "reference".into()));
                sheet.push(columns.iter().filter_map(restored).chain(reference).collect());
            }
            let panels: Vec<Vec<Panel>> = sheet.iter().map(|row| row.iter().map(Shown::panel).collect()).collect();
            if let Ok(png) = montage::encode(&panels.iter().map(Vec::as_slice).collect::<Vec<_>>()) {
                let picture = html::picture(&format!("{task}: examples"), &png);
                let _ = write!(html, "<h3>{task}</h3><div class=\"wide\">{picture}</div>");
            }
        }
    }

    /// Validation PSNR of the first seed of every row, for each set of tasks that cells are trained on.
    fn curves(&self, html: &mut String) {
        html.push_str("<h2>Learning curves</h2><p>Affine PSNR (dB) of the validation images, first seed.</p>");
        let mut sets: Vec<&[Task]> = Vec::new();
        for cell in self.results.cells.iter().filter(|cell| cell.seed.is_some()) {
            if !sets.contains(&&cell.tasks[..]) {
                sets.push(&cell.tasks);
            }
        }
        for tasks in sets {
            let mut shown: Vec<Row> = Vec::new();
            let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
            for cell in self.results.cells.iter().filter(|cell| cell.tasks == tasks && cell.seed.is_some()) {
                let row = Row { group: cell.group, pairs: cell.pairs };
                let log = RunFolder::new(&benchmark::cells_path(self.out).join(&cell.key)).log();
                let columns = html::columns(&std::fs::read_to_string(log).unwrap_or_default());
                let points = columns.into_iter().find(|(name, points)| name == "psnr_affine" && points.len() > 1);
                if let Some((_, points)) = points.filter(|_| !shown.contains(&row)) {
                    shown.push(row);
                    lines.push((format!("{} {}", self.label(row), cell.pairs.unwrap_or(0)), points));
                }
            }
            if lines.is_empty() {
                continue;
            }
            let names: Vec<&str> = tasks.iter().map(|task| task.as_str()).collect();
            let coloured = || lines.iter().enumerate().map(|(number, line)| (html::colour(number), line));
            let drawn: Vec<Line> = coloured().map(|(colour, (_, points))| Line { colour, points }).collect();
            html.push_str(&html::curves(&names.join(", "), "step", 260.0, &drawn));
            html.push_str(&html::legend(coloured().map(|(colour, (name, _))| (name.as_str(), colour))));
        }
    }

    fn times(&self, html: &mut String) {
        html.push_str(
            "<h2>Time of each cell</h2><table><tr><th>cell<th>state<th>steps<th>time<th>steps/s<th>trained on<th></tr>",
        );
        for cell in self.results.cells.iter().filter(|cell| cell.seed.is_some() || cell.error.is_some()) {
            let state = match cell.state {
                State::Open => "to do",
                State::Finished if cell.steps[0] < cell.steps[1] => "stopped early",
                State::Finished => "finished",
                State::Failed => "failed",
            };
            let _ = write!(
                html,
                "<tr><td>{}<td>{state}<td>{} of {}<td>{}<td>{:.1}<td>{}<td>{}</tr>",
                cell.key,
                cell.steps[0],
                cell.steps[1],
                duration(cell.seconds),
                cell.steps_per_s,
                escaped(&cell.machine),
                escaped(cell.error.as_deref().unwrap_or_default())
            );
        }
        html.push_str("</table>");
    }
}

/// The middle of the first plane of an image, as it is shown.
struct Shown {
    samples: Vec<f32>,
    shape: (usize, usize),
    display: (f32, f32),
    caption: String,
}

impl Shown {
    /// None where there is no such image.
    fn read(path: &Path, caption: String) -> Option<Self> {
        let image = tiff_io::read_tiff(path).ok()?;
        let (y, x) = (image.info.shape.y, image.info.shape.x);
        let (height, width) = (y.min(PICTURE_SIDE), x.min(PICTURE_SIDE));
        let (top, left) = ((y - height) / 2, (x - width) / 2);
        let rows = (top..top + height).flat_map(|row| &image.samples[row * x + left..][..width]);
        let samples: Vec<f32> = rows.copied().collect();
        let percentile = |q| metrics::percentile(&samples, q).ok().map(|value| value as f32);
        let display = (percentile(0.1)?, percentile(99.9)?);
        Some(Self { samples, shape: (height, width), display, caption })
    }

    fn panel(&self) -> Panel<'_> {
        let Self { samples, shape, display, caption } = self;
        Panel { samples, shape: *shape, display: *display, caption: caption.clone() }
    }
}

/// What [`Report::gain`] writes.
const GAIN: &str = "dB / SSIM, mean of the differences of seeds ± their standard deviation; small: the standard error \
                    over the images of their mean difference in dB, and how many images are better.";

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation of a sample; none of fewer than two values.
fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    Some((values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt())
}

fn plus_minus(spread: Option<f64>, digits: usize) -> String {
    spread.map_or(String::new(), |spread| format!(" ± {spread:.digits$}"))
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

fn shortened(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    if short.len() < text.len() { format!("{short} …") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_that_of_a_sample() {
        // numpy.std(..., ddof=1)
        assert_eq!(deviation(&[1.0, 3.0]), Some(2f64.sqrt()));
        assert_eq!(deviation(&[1.0]), None);
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!([5.4, 65.0, 7_265.0].map(duration), ["5 s", "1 min 5 s", "2 h 1 min"]);
    }
}
