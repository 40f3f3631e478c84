//! Run folder → report.html: figures, curves, pictures, config, in one file that needs nothing else. It reads nothing but
//! the run folder, so it can be made again at any time.

use crate::config::{Config, Split};
use crate::html::{self, Line, escaped};
use crate::train::{RunFolder, write};
use anyhow::{Context, Result};
use std::fmt::Write;

/// Most files of a split that are named.
const MOST_NAMES: usize = 100;

/// Writes report.html into the run folder.
///
/// # Errors
/// Where config.toml or log.csv cannot be read or the report cannot be written; other files may be missing.
pub fn write_report(run: &RunFolder) -> Result<()> {
    let log = std::fs::read_to_string(run.log()).with_context(|| run.log().display().to_string())?;
    let config = Config::of_run(&run.config())?;
    let name = run.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let tasks: Vec<_> = config.tasks.iter().map(|task| task.as_str()).collect();
    let mut html = html::head(&format!("{name}: {}, {}", config.method.published_name(), tasks.join(", ")));
    about(&mut html, run, &config);
    for task in 0..config.tasks.len() {
        figures(&mut html, run, &config, task);
    }
    html.push_str("<h2>Curves</h2>");
    for (name, points) in html::columns(&log).iter().filter(|(_, points)| points.len() > 1) {
        html.push_str(&html::curves(name, "step", 160.0, &[Line { colour: "#06c", points }]));
    }
    if let Some(picture) = last_picture(run) {
        let bytes = std::fs::read(&picture).with_context(|| picture.display().to_string())?;
        let name = picture.file_stem().unwrap_or_default().to_string_lossy();
        let _ = write!(
            html,
            "<h2>Validation pictures, step {}</h2><p>degraded | restored | reference, each scaled by its own percentiles \
             0.1 and 99.9</p>{}",
            name.trim_start_matches('0'),
            html::picture("validation pictures", &bytes)
        );
    }
    let _ = writeln!(html, "<h2>Config</h2><pre>{}</pre></html>", escaped(&config.to_toml()?));
    write(&run.report(), html.as_bytes())
}

/// What was trained, from what, and which version of this program writes the report.
fn about(html: &mut String, run: &RunFolder, config: &Config) {
    let entries = run.entries().unwrap_or_default();
    let count = |split, pair| entries.iter().filter(|entry| entry.split == split && entry.is_pair() == pair).count();
    let of = |split| format!("{} pairs and {} other files", count(split, true), count(split, false));
    let names = |split| {
        let names = entries.iter().filter(|entry| entry.split == split).map(|entry| entry.path().display().to_string());
        let list: Vec<_> = names.take(MOST_NAMES + 1).collect();
        let more = if list.len() > MOST_NAMES { " and more" } else { "" };
        format!("{}{more}", list[..list.len().min(MOST_NAMES)].join(", "))
    };
    let base = config.base.as_ref().map_or(String::new(), |base| format!(", going on from {base}"));
    let text = format!(
        "{} steps, seed {}{base}. From {}; validated on {} (split.json). Report by mdr-train {}, commit {}.",
        config.train.steps,
        config.seed,
        of(Split::Train),
        of(Split::Val),
        env!("CARGO_PKG_VERSION"),
        env!("MDR_COMMIT")
    );
    let _ = write!(html, "<p>{}</p>", escaped(&text));
    for (what, split) in [("Trained on", Split::Train), ("Validated on", Split::Val)] {
        if count(split, true) + count(split, false) > 0 {
            let _ = write!(html, "<p>{what}: {}</p>", escaped(&names(split)));
        }
    }
    if !run.scores(config, 0).exists() {
        let _ = write!(html, "<p>Nothing was validated: the last step is what was exported.</p>");
    }
}

/// Of a task (an index), the table of the best validation, and the parity check.
fn figures(html: &mut String, run: &RunFolder, config: &Config, task: usize) {
    let json = |path| -> Option<serde_json::Value> {
        let text = std::fs::read_to_string(path).ok()?;
        serde_json::from_str(&text).ok()
    };
    if let Some(best) = json(run.scores(config, task)) {
        let _ = write!(
            html,
            "<h2>{}: best validation, step {}, {} planes</h2><p>{}</p><table><tr><th><th>PSNR affine, dB<th>SSIM affine<th>PSNR, dB\
             <th>SSIM</tr>",
            config.tasks[task],
            best["step"],
            best["images"],
            escaped(best["data"].as_str().unwrap_or_default())
        );
        for row in ["input", "restored"] {
            let cell = |name: &str, digits| match best[row][name].as_f64() {
                Some(value) => format!("<td>{value:.digits$}"),
                None => "<td>".to_owned(),
            };
            let cells = [cell("psnr_affine", 2), cell("ssim_affine", 3), cell("psnr", 2), cell("ssim", 3)].concat();
            let _ = write!(html, "<tr><td>{row}{cells}</tr>");
        }
        let _ = write!(
            html,
            "</table><p>{}. The step was chosen on these images: figures to publish are those of mdr-train evaluate on \
             others.</p>",
            escaped(best["protocol"].as_str().unwrap_or_default())
        );
    }
    if let Some(parity) = json(run.parity(config, task)) {
        let _ = write!(
            html,
            "<p>Export: tch and mdr differ by {:.1e} of the output range at most (allowed: {:.0e}).</p>",
            parity["worst"].as_f64().unwrap_or(f64::NAN),
            parity["tolerance"].as_f64().unwrap_or(f64::NAN)
        );
    }
}

fn last_picture(run: &RunFolder) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(run.samples()).ok()?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .max()
}
