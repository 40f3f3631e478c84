//! The program `mdr` as its user sees it: files in, files out, lines of text, exit status. Every test has a folder of
//! its own and runs the program in it. What a result must be comes from the Rust API or from a loop over samples.

mod common;

use common::*;
use mdr::image::ImageJMetadata;
use mdr::metrics::{self, Scale, Scores, SsimWindow};
use mdr::simulate::gaussian_blur;
use mdr::tiff_io::{read_tiff, write_tiff};
use mdr::{Image, ImageInfo, Model, Normalization, PixelType, RestoreOptions, Shape};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with a few models, in which the program runs.
struct Place(TempDir);

/// What a run ended with.
#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        for (name, bytes) in [("identity", identity()), ("mean", mean3()), ("double", upsample2())] {
            place.put(&format!("{name}.onnx"), &bytes);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a file in the temporary folder");
    }

    fn put_image(&self, name: &str, image: &Image) {
        write_tiff(self.path(name), image, true).expect("a TIFF in the temporary folder");
    }

    fn make_folder(&self, name: &str) {
        fs::create_dir(self.path(name)).expect("a folder in the temporary folder");
    }

    fn image(&self, name: &str) -> Image {
        read_tiff(self.path(name)).expect("a result that can be read")
    }

    /// All files with their content, folders with none, also of the folders within.
    fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut found, mut folders) = (BTreeMap::new(), vec![self.0.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                found.insert(path.clone(), fs::read(&path).unwrap_or_default());
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }

    /// The program with arguments that are separated by spaces.
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdr"));
        command.current_dir(self.0.path()).args(arguments.split_whitespace()).stdin(Stdio::null());
        command
    }

    fn mdr(&self, arguments: &str) -> Ended {
        ended(&mut self.command(arguments))
    }

    /// Status 0 and silence on stderr; gives stdout.
    #[track_caller]
    fn works(&self, arguments: &str) -> String {
        let end = self.mdr(arguments);
        assert_eq!((end.status, end.err.as_str()), (Some(0), ""), "mdr {arguments}: {end:?}");
        end.out
    }

    /// Status 0 and no word at all, as a restoration in a pipe.
    #[track_caller]
    fn restores(&self, arguments: &str) {
        assert_eq!(self.works(&format!("restore {arguments}")), "", "mdr restore {arguments}");
    }

    /// Status 2 and these words: options that no file could make right.
    #[track_caller]
    fn misuses(&self, arguments: &str, words: &[&str]) {
        let end = self.mdr(arguments);
        assert_eq!((end.status, end.out.as_str()), (Some(2), ""), "mdr {arguments}: {end:?}");
        assert!(words.iter().all(|word| end.err.contains(word)), "mdr {arguments}: {end:?}");
    }

    /// Status 1, one line with these words, and the folder as it was.
    #[track_caller]
    fn refuses(&self, arguments: &str, words: &[&str]) {
        let before = self.content();
        let end = self.mdr(arguments);
        assert_eq!((end.status, end.out.as_str()), (Some(1), ""), "mdr {arguments}: {end:?}");
        assert_one_line(&end.err);
        for word in words {
            assert!(end.err.contains(word), "mdr {arguments}: {word:?} is not in {:?}", end.err);
        }
        assert!(self.content() == before, "mdr {arguments} has changed {:?}", self.content().keys());
    }
}

fn ended(command: &mut Command) -> Ended {
    let output = command.output().expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
fn assert_one_line(err: &str) {
    assert!(err.starts_with("mdr: ") && err.ends_with('\n') && err.lines().count() == 1, "one line, not {err:?}");
    assert!(!err.contains("panicked") && !err.contains("internal error"), "{err:?}");
}

/// Visible also where the test passes.
#[cfg(target_os = "linux")]
fn skipped(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}

fn plane(y: usize, x: usize, seed: u64) -> Image {
    Image::from_plane(y, x, beads(y, x, seed)).expect("a plane")
}

fn stack(shape: Shape, pixel_type: PixelType) -> Image {
    let samples = noise(9, shape.len()).into_iter().map(|s| (1000.0 + 900.0 * s).round()).collect();
    Image::new(ImageInfo::new(shape, pixel_type), samples).expect("a stack")
}

/// `gain · x + offset` for every pixel.
fn linear(gain: f32, offset: f32) -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let (weight, bias) = (net.floats(&[1, 1, 1, 1], &[gain]), net.floats(&[1], &[offset]));
    let y = net.op("Conv", &["image", &weight, &bias], &[]);
    net.finish(&y)
}

/// A TIFF of plain 8-bit pages without any description.
fn plain_pages(pages: &[Vec<u8>], y: u32, x: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).expect("a header");
    for page in pages {
        encoder.write_image::<tiff::encoder::colortype::Gray8>(x, y, page).expect("a page");
    }
    file.into_inner()
}

/// The same little-endian TIFF with another number in a tag of its first directory.
fn with_tag(tiff: &[u8], tag: u16, value: u32) -> Vec<u8> {
    let mut tiff = tiff.to_vec();
    let number = |at: usize, len: usize| tiff[at..at + len].iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
    let directory = number(4, 4);
    let entry = (0..number(directory, 2)).map(|i| directory + 2 + 12 * i).find(|&at| number(at, 2) == usize::from(tag));
    let entry = entry.expect("the tag is there");
    let len = if number(entry + 2, 2) == 3 { 2 } else { 4 };
    tiff[entry + 8..entry + 8 + len].copy_from_slice(&value.to_le_bytes()[..len]);
    tiff
}

// ---- What is restored

#[test]
fn a_file_as_the_rust_api_restores_it() {
    let place = Place::new();
    place.put("unet.onnx", &unet(1, 4));
    let image = Image { info: ImageInfo { pixel_type: PixelType::U16, ..plane(70, 93, 1).info }, ..plane(70, 93, 1) };
    place.put_image("cells.tif", &image);
    place.restores("cells.tif -o cli.tif --model unet.onnx --tile 48 --overlap 20");

    let model = Model::load(&place.path("unet.onnx")).expect("a model");
    let options = RestoreOptions { tile: Some(48), overlap: Some(20), ..RestoreOptions::default() };
    let image = place.image("cells.tif");
    let mut restored = mdr::restore(&model, &image, &options, &mut |_| true).expect("a restoration");
    place.put_image("api.tif", &restored);
    assert!(fs::read(place.path("cli.tif")).unwrap() == fs::read(place.path("api.tif")).unwrap());

    restored.info.pixel_type = PixelType::U16;
    place.put_image("api.tif", &restored);
    place.restores("cells.tif -o same.tif --model unet.onnx --tile 48 --overlap 20 --dtype same");
    assert!(fs::read(place.path("same.tif")).unwrap() == fs::read(place.path("api.tif")).unwrap());
}

#[test]
fn several_files_and_folders() {
    let place = Place::new();
    place.make_folder("in");
    for (i, name) in ["a.tif", "b.TIFF", ".hidden.tif"].into_iter().enumerate() {
        place.put_image(&format!("in/{name}"), &plane(20, 21, i as u64));
    }
    place.put("in/notes.txt", b"no image");
    let names = |folder: &str| {
        let entries = fs::read_dir(place.path(folder)).expect("a folder");
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for (i, input) in ["in", "in/a.tif in/b.TIFF", "in/a.tif in/b.TIFF"].into_iter().enumerate() {
        let said = place.works(&format!("restore {input} -o made/out{i} --model identity.onnx"));
        assert_eq!(said, "2 of 2 files restored\n");
        assert_eq!(names(&format!("made/out{i}")), ["a.tif", "b.TIFF"]);
        for (seed, name) in ["a.tif", "b.TIFF"].into_iter().enumerate() {
            let restored = place.image(&format!("made/out{i}/{name}"));
            assert!(max_difference(&restored.samples, &beads(20, 21, seed as u64)) < 0.01);
        }
    }
    // A single file into a folder that is there keeps its name.
    place.make_folder("single");
    place.restores("in/a.tif -o single --model identity.onnx");
    assert_eq!(names("single"), ["a.tif"]);
    place.misuses("restore in -o made.tif --model identity.onnx", &["made.tif", "the results go into a folder"]);
}

#[test]
fn a_folder_run_goes_on_past_bad_files() {
    let place = Place::new();
    place.make_folder("in");
    place.put_image("in/a.tif", &plane(20, 20, 1));
    place.put("in/b.tif", b"");
    place.put("in/c.tif", b"II*\0 and no more");
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere.tif", place.path("in/e.tif")).expect("a link");
    place.put_image("in/d.tif", &plane(20, 20, 2));
    let end = place.mdr("restore in -o out --model mean.onnx");
    assert_eq!((end.status, end.out.as_str()), (Some(1), ""));
    let lines: Vec<_> = end.err.lines().collect();
    let bad = if cfg!(unix) { vec!["b", "c", "e"] } else { vec!["b", "c"] };
    assert_eq!(lines.len(), bad.len() + 1, "{end:?}");
    for (line, name) in lines.iter().zip(&bad) {
        assert!(line.starts_with(&format!("mdr: in/{name}.tif: ")), "{end:?}");
    }
    assert_eq!(lines[bad.len()], format!("mdr: {0} of {1} files could not be restored", bad.len(), bad.len() + 2));
    let made: Vec<_> = place.content().into_keys().filter(|path| path.starts_with(place.path("out/"))).collect();
    assert_eq!(made, [place.path("out"), place.path("out/a.tif"), place.path("out/d.tif")]);
}

#[test]
fn a_folder_run_goes_on_where_it_was_stopped() {
    let place = Place::new();
    place.make_folder("in");
    place.make_folder("out");
    place.put_image("in/a.tif", &plane(20, 20, 1));
    place.put_image("in/b.tif", &plane(20, 20, 2));
    place.put("out/a.tif", b"done before");
    let said = place.works("restore in -o out --model identity.onnx --skip-existing");
    assert_eq!(said, "1 of 2 files restored, 1 were there already\n");
    assert!(fs::read(place.path("out/a.tif")).unwrap() == b"done before");
    assert!(max_difference(&place.image("out/b.tif").samples, &beads(20, 20, 2)) < 0.01);
    let before = place.content();
    place.restores("in -o out --model identity.onnx --skip-existing --quiet");
    place.restores("in/a.tif -o out/a.tif --model identity.onnx --skip-existing");
    assert!(place.content() == before);
    let end = place.mdr("restore in -o in --model identity.onnx --skip-existing");
    assert!(end.status == Some(1) && end.err.contains("the output is the input"), "{end:?}");
    place.misuses("restore in -o out --model identity.onnx --skip-existing --force", &["--skip-existing", "--force"]);
}

#[test]
fn calibration_survives() {
    let place = Place::new();
    let mut image = stack(Shape { t: 2, c: 1, z: 3, y: 16, x: 12 }, PixelType::U16);
    image.info.pixel_size_um = Some(0.25);
    image.info.z_step_um = Some(2.0);
    image.info.frame_interval_s = Some(1.5);
    image.info.extra.imagej = vec![("loop".into(), "true".into())];
    place.put_image("in.tif", &image);
    for (model, factor) in [("mean", 1), ("double", 2)] {
        place.restores(&format!("in.tif -o {model}.tif --model {model}.onnx"));
        let info = place.image(&format!("{model}.tif")).info;
        assert_eq!(info.shape, Shape { y: 16 * factor, x: 12 * factor, ..image.info.shape });
        assert_eq!(info.pixel_size_um, Some(0.25 / factor as f64));
        assert_eq!((info.z_step_um, info.frame_interval_s), (Some(2.0), Some(1.5)));
        assert_eq!(info.axes.as_str(), "TZYX");
        assert_eq!(info.extra.imagej, image.info.extra.imagej);
    }
}

/// ImageJ's binary metadata, a block for each of these types.
fn imagej_blocks(blocks: &[(&[u8; 4], &[u8])]) -> ImageJMetadata {
    let mut header = b"IJIJ".to_vec();
    blocks.iter().for_each(|(kind, _)| header.extend([&kind[..], &1_u32.to_be_bytes()].concat()));
    let counts = std::iter::once(header.len()).chain(blocks.iter().map(|(_, bytes)| bytes.len()));
    let counts = counts.map(|count| count as u32).collect();
    let data = blocks.iter().fold(header, |data, (_, bytes)| [&data, *bytes].concat());
    ImageJMetadata { counts, data, big_endian: true }
}

#[test]
fn what_imagej_counts_in_pixels_is_brought_onto_the_new_grid() {
    let place = Place::new();
    let mut image = stack(Shape { t: 1, c: 1, z: 3, y: 16, x: 12 }, PixelType::U16);
    (image.info.pixel_size_um, image.info.z_step_um) = (Some(0.25), Some(0.5));
    let lines = |values: [&str; 3]| {
        let origins = ["xorigin", "yorigin", "zorigin"].into_iter().zip(values);
        origins.chain([("loop", "true")]).map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    image.info.extra.imagej = lines(["3", "1.5", "-1"]);
    let blocks: [(&[u8; 4], &[u8]); 4] = [(b"info", &[0, b'i']), (b"rang", &[0; 16]), (b"roi ", b"r"), (b"over", b"o")];
    image.info.extra.imagej_metadata = Some(imagej_blocks(&blocks));
    place.put_image("in.tif", &image);
    for (options, origins, overlays) in [
        ("--model mean.onnx", ["3", "1.5", "-1"], true),
        ("--model double.onnx", ["6", "3", "-1"], false),
        ("--model identity.onnx --task axial", ["3", "1.5", "-2"], false),
    ] {
        place.restores(&format!("in.tif -o out.tif --force {options}"));
        let extra = place.image("out.tif").info.extra;
        assert_eq!(extra.imagej, lines(origins), "{options}");
        let data = extra.imagej_metadata.expect("metadata").data;
        // Types are numbers, and the file is little-endian.
        let has = |kind: &[u8; 4]| data.windows(4).any(|bytes| bytes.iter().rev().eq(kind));
        assert!(has(b"info") && has(b"rang"), "{options}");
        assert_eq!([has(b"roi "), has(b"over")], [overlays; 2], "{options}");
    }
}

#[test]
fn a_line_scan_keeps_its_time() {
    let place = Place::new();
    let mut image = stack(Shape { t: 1, c: 1, z: 3, y: 16, x: 12 }, PixelType::U16);
    (image.info.pixel_size_um, image.info.z_step_um) = (Some(0.25), Some(0.5));
    image.info.extra.y_unit = Some((500.0, "sec".into()));
    place.put_image("in.tif", &image);
    for (options, rows_per_second) in
        [("mean.onnx", Some(500.0)), ("double.onnx", Some(1000.0)), ("mean.onnx --pixel-size 0.25", None)]
    {
        place.restores(&format!("in.tif -o out.tif --force --model {options}"));
        let found = place.image("out.tif").info.extra.y_unit;
        assert_eq!(found, rows_per_second.map(|rows| (rows, "sec".into())), "{options}");
    }
    place.refuses(
        "restore in.tif -o no.tif --model identity.onnx --task axial",
        &["square pixels", "0.25 µm along X", "no length along Y"],
    );
}

// ---- What the options do

/// The largest number of tiles that a progress bar on a terminal has named, beside rate and time; 0 without a bar.
#[cfg(target_os = "linux")]
fn tiles_on_a_terminal(place: &Place, arguments: &str) -> usize {
    let run = format!("{} restore {arguments}", env!("CARGO_BIN_EXE_mdr"));
    let mut script = Command::new("script");
    script.current_dir(place.0.path()).args(["-qec", &run, "/dev/null"]).stdin(Stdio::null());
    let end = ended(&mut script);
    assert_eq!(end.status, Some(0), "{end:?}");
    let counts = end.out.split(" tiles, ").filter_map(|text| text.rsplit_once('/')?.1.parse().ok());
    assert_eq!(end.out.contains(" tiles, "), end.out.contains(" Mpixel/s, ") && end.out.contains(" left"), "{end:?}");
    counts.max().unwrap_or(0)
}

#[test]
#[cfg(target_os = "linux")]
fn tile_overlap_and_quiet() {
    let place = Place::new();
    place.put_image("in.tif", &plane(100, 100, 3));
    place.restores("in.tif -o whole.tif --model mean.onnx");
    // One thread, for which nothing is gained by cutting an image that need not be cut.
    let tiled = ["--threads 1", "--tile 34 --threads 1", "--tile 34 --overlap 17 --threads 1"];
    for (i, options) in tiled.into_iter().enumerate() {
        place.restores(&format!("in.tif -o {i}.tif --model mean.onnx {options}"));
        let difference = max_difference(&place.image(&format!("{i}.tif")).samples, &place.image("whole.tif").samples);
        assert!(difference < 0.01, "{options}: {difference}");
    }
    if !tools::available("script", "what the program shows on a terminal") {
        return;
    }
    let counts = tiled
        .map(|options| tiles_on_a_terminal(&place, &format!("in.tif -o pty.tif --force --model mean.onnx {options}")));
    // After the first, a tile of 34 pixels adds 32 to a row where the two are shared that the network needs, and 17
    // where 17 are shared: 4 and 5 tiles for 100 pixels.
    assert_eq!(counts, [1, 4 * 4, 5 * 5]);
    let quiet = "in.tif -o pty.tif --force --quiet --model mean.onnx --tile 34";
    assert_eq!(tiles_on_a_terminal(&place, quiet), 0);
}

/// Memory of the whole process, as the kernel counts it, while the built-in model restores.
#[test]
#[cfg(target_os = "linux")]
fn the_process_stays_below_the_memory_limit() {
    let place = Place::new();
    place.put_image("two.tif", &stack(Shape { t: 1, c: 1, z: 2, y: 900, x: 900 }, PixelType::U16));
    place.put_image("one.tif", &stack(Shape { t: 1, c: 1, z: 1, y: 1800, x: 2000 }, PixelType::U16));
    // Of a side that the network does not take: it is enlarged.
    place.put_image("odd.tif", &stack(Shape { t: 1, c: 1, z: 1, y: 1801, x: 1999 }, PixelType::U16));
    let whole = [("one", 100, 1), ("one", 110, 2), ("odd", 130, 2)];
    let cases = [("two", 120, 1), ("two", 200, 2), ("two", 400, 2)].into_iter().chain(whole);
    for (name, limit, threads) in cases {
        let arguments = format!("restore {name}.tif -o out.tif --force --memory-limit {limit} --threads {threads}");
        let mut child = place.command(&arguments).spawn().expect("the program runs");
        let mut peak = 0;
        while child.try_wait().expect("a child").is_none() {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = line.and_then(|kb| kb.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(peak);
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(child.wait().expect("a child").success(), "{arguments}");
        assert!(peak > 20_000 && peak <= limit * 1024, "{arguments}: {} MB", peak / 1024);
    }
}

#[test]
fn the_memory_limit_binds() {
    let place = Place::new();
    place.put("unet.onnx", &unet(1, 32));
    place.put_image("in.tif", &plane(512, 512, 3));
    let limited =
        |options: &str| format!("in.tif -o out.tif --model unet.onnx --memory-limit 44 --threads 1 {options}");
    place.refuses(
        &format!("restore {}", limited("--tile 512")),
        &["in.tif: memory limit 44 MB", "about", "raise the limit"],
    );
    place.restores(&limited(""));
    place.put("norm.onnx", &instance_norm());
    place.refuses(
        "restore in.tif -o no.tif --model norm.onnx --memory-limit 5",
        &["in.tif: ", "cannot be tiled", "InstanceNormalization"],
    );
}

#[test]
fn threads_run_and_change_nothing() {
    let place = Place::new();
    place.put("unet.onnx", &unet(1, 8));
    place.put_image("in.tif", &plane(500, 500, 3));
    let mut most = Vec::new();
    for threads in [1, 4] {
        let options = format!("restore in.tif -o {threads}.tif --model unet.onnx --tile 64 --threads {threads}");
        let mut child = place.command(&options).spawn().expect("the program runs");
        let mut seen = 0;
        while child.try_wait().expect("a child").is_none() {
            let tasks = fs::read_dir(format!("/proc/{}/task", child.id()));
            seen = seen.max(tasks.map_or(0, |tasks| tasks.count()));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(child.wait().expect("a child").success());
        most.push(seen);
    }
    assert!(fs::read(place.path("1.tif")).unwrap() == fs::read(place.path("4.tif")).unwrap());
    if cfg!(target_os = "linux") {
        assert_eq!(most[1], most[0] + 3, "{most:?}");
    }
    place.misuses("restore in.tif -o no.tif --model mean.onnx --threads 0", &["'0'", "--threads", "above 0"]);
    place.misuses("restore in.tif -o no.tif --memory-limit 0", &["'0'", "--memory-limit", "above 0"]);
    place.misuses("restore in.tif -o no.tif --tile 0", &["'0'", "--tile", "above 0"]);
}

/// Threads with stacks of a gigabyte each, of which the address space does not hold many.
#[test]
#[cfg(target_os = "linux")]
fn fewer_threads_than_asked_for_do() {
    let place = Place::new();
    place.put_image("in.tif", &plane(100, 100, 3));
    place.restores("in.tif -o all.tif --model mean.onnx --tile 16 --threads 8");
    let limited = |output: &str, stack: u64| {
        let program = env!("CARGO_BIN_EXE_mdr");
        let run = format!("{program} restore in.tif -o {output} --model mean.onnx --tile 16 --threads 8");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -v 4000000 && exec {run}")]).env("RUST_MIN_STACK", stack.to_string());
        ended(shell.current_dir(place.0.path()))
    };
    let end = limited("some.tif", 1 << 30);
    assert_eq!((end.status, end.err.as_str()), (Some(0), ""), "{end:?}");
    assert_eq!(place.image("some.tif").samples, place.image("all.tif").samples);
    let end = limited("none.tif", 1 << 33);
    assert_eq!(end.status, Some(1), "{end:?}");
    assert_one_line(&end.err);
    assert!(end.err.contains("in.tif: inference failed: the system gives no thread"), "{end:?}");
}

#[test]
fn axes_name_the_pages() {
    let place = Place::new();
    let pages: Vec<_> = (0..6).map(|i| vec![10 * i; 30]).collect();
    place.put("pages.tif", &plain_pages(&pages, 5, 6));
    for (options, axes) in [("", "ZYX"), ("--axes TYX", "TYX"), ("--axes cyx", "CYX")] {
        place.restores(&format!("pages.tif -o out.tif --force --model identity.onnx {options}"));
        let image = place.image("out.tif");
        assert_eq!((image.info.axes.as_str(), image.info.shape.planes()), (axes, 6));
        let means: Vec<_> = image.samples.chunks(30).map(|page| page.iter().sum::<f32>() / 30.0).collect();
        assert!(max_difference(&means, &[0.0, 10.0, 20.0, 30.0, 40.0, 50.0]) < 0.01, "{means:?}");
    }
    place.refuses("restore pages.tif -o no.tif --model identity.onnx --axes TCYX", &["pages.tif", "TCYX", "6 pages"]);
}

#[test]
fn one_channel_of_several() {
    let place = Place::new();
    let image = stack(Shape { t: 1, c: 3, z: 2, y: 9, x: 8 }, PixelType::U16);
    place.put_image("in.tif", &image);
    place.restores("in.tif -o all.tif --model identity.onnx");
    assert_eq!(place.image("all.tif").info.shape, image.info.shape);
    place.restores("in.tif -o one.tif --model identity.onnx --channel 1");
    let one = place.image("one.tif");
    assert_eq!((one.info.axes.as_str(), one.info.shape), ("ZYX", Shape { c: 1, ..image.info.shape }));
    assert!(max_difference(&one.samples, &image.samples[2 * 72..4 * 72]) < 0.01);
    place.refuses("restore in.tif -o no.tif --model identity.onnx --channel 3", &["in.tif: channel 3", "has 3"]);
}

#[test]
fn dtype_same_rounds_and_clamps() {
    let place = Place::new();
    place.put("linear.onnx", &linear(1.5, -100.3));
    for (kind, largest) in [(PixelType::U8, 255_u16), (PixelType::U16, 65535)] {
        let values: Vec<f32> = (0..256).map(|i| f32::from(i * (largest / 255))).collect();
        let image = Image::new(ImageInfo::new(Shape::plane(16, 16), kind), values.clone()).expect("an image");
        place.put_image("in.tif", &image);
        let run = "in.tif -o out.tif --force --model linear.onnx --normalization none";
        place.restores(&format!("{run} --dtype same"));
        let same = place.image("out.tif");
        assert_eq!(same.info.pixel_type, kind);
        let exact: Vec<f32> = values.iter().map(|v| 1.5 * v - 100.3).collect();
        let expected: Vec<f32> = exact.iter().map(|v| v.round().clamp(0.0, largest.into())).collect();
        assert_eq!(same.samples, expected);
        assert!(expected.contains(&0.0) && expected.contains(&largest.into()));
        for options in ["", "--dtype float32"] {
            place.restores(&format!("{run} {options}"));
            let float = place.image("out.tif");
            assert_eq!(float.info.pixel_type, PixelType::F32);
            assert!(max_difference(&float.samples, &exact) < 0.05);
        }
    }
}

#[test]
fn normalization_replaces_the_models() {
    let place = Place::new();
    place.put("linear.onnx", &linear(2.0, 3.0));
    let values: Vec<f32> = (0..101).map(|i| (i * i) as f32).collect();
    place.put_image("in.tif", &Image::from_plane(1, 101, values.clone()).expect("an image"));
    let mean = values.iter().sum::<f32>() / 101.0;
    let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 101.0).sqrt();
    // Of 101 values the percentile P is the one with index P.
    for (options, offset, range) in [
        ("--normalization none", 0.0, 1.0),
        ("--normalization mean-std", mean, spread),
        ("--normalization percentile:10,90", 100.0, 8000.0),
        ("", 4.0, values[99] + 0.8 * (values[100] - values[99]) - 4.0),
    ] {
        place.restores(&format!("in.tif -o out.tif --force --model linear.onnx {options}"));
        let expected: Vec<f32> = values.iter().map(|v| ((v - offset) / range * 2.0 + 3.0) * range + offset).collect();
        let difference = max_difference(&place.image("out.tif").samples, &expected);
        assert!(difference < 0.05, "{options}: {difference}");
    }
    place.misuses(
        "restore in.tif -o no.tif --model linear.onnx --normalization percentile:90,10",
        &["--normalization", "90", "10"],
    );
}

#[test]
fn task_axial_makes_stacks_isotropic() {
    let place = Place::new();
    let mut image = stack(Shape { t: 1, c: 1, z: 5, y: 12, x: 10 }, PixelType::F32);
    place.put_image("bare.tif", &image);
    place.refuses(
        "restore bare.tif -o no.tif --model identity.onnx --task axial",
        &["bare.tif: ", "pixel size", "z step", "lacks"],
    );
    image.info.pixel_size_um = Some(0.1);
    image.info.z_step_um = Some(0.3);
    place.put_image("known.tif", &image);
    for (options, planes, size) in [
        ("bare.tif --pixel-size 0.5 --z-step 1", 9, 0.5),
        ("known.tif", 13, 0.1),
        ("known.tif --z-step 0.2", 9, 0.1),
        ("known.tif --pixel-size 0.15", 9, 0.15),
    ] {
        place.restores(&format!("{options} -o out.tif --force --model identity.onnx --task axial"));
        let restored = place.image("out.tif");
        assert_eq!(restored.info.shape, Shape { z: planes, ..image.info.shape }, "{options}");
        let (pixel, step) = (restored.info.pixel_size_um.unwrap(), restored.info.z_step_um.unwrap());
        assert!((pixel - size).abs() < 1e-6 && (step - size).abs() < 1e-6, "{options}: {pixel} {step}");
        // The planes of the source are among those of the result.
        let every = (planes - 1) / 4;
        for z in 0..5 {
            let found = &restored.samples[z * every * 120..][..120];
            assert!(max_difference(found, &image.samples[z * 120..][..120]) < 0.05, "{options}, plane {z}");
        }
    }
    // Without the task the numbers are calibration alone; that of the model counts unless another is given.
    place.restores("bare.tif -o out.tif --force --model identity.onnx --pixel-size 0.5 --z-step 1");
    let info = place.image("out.tif").info;
    assert_eq!((info.shape, info.pixel_size_um, info.z_step_um), (image.info.shape, Some(0.5), Some(1.0)));
    place.put("axial.onnx", &with_metadata(&identity(), &[("mdr.task", "axial")]));
    place.restores("known.tif -o out.tif --force --model axial.onnx");
    assert_eq!(place.image("out.tif").info.shape.z, 13);
    place.refuses("restore known.tif -o no.tif --model axial.onnx --task denoise", &["task denoise", "is for axial"]);
    // A model that says which steps it knows; 1 µm are 2 pixels.
    let knowing = [("mdr.task", "axial"), ("mdr.name", "deep"), ("mdr.axial_step", "[2.5, 6]")];
    place.put("deep.onnx", &with_metadata(&identity(), &knowing));
    let known = "mdr: out.tif: planes lie 2 pixels apart, and deep was trained with 2.5 to 6";
    for (step, said) in [("1", known), ("2", "")] {
        let options = format!("bare.tif --z-step {step} --pixel-size 0.5 -o out.tif --force --model deep.onnx");
        let end = place.mdr(&format!("restore {options}"));
        assert!(end.status == Some(0) && end.err.starts_with(said) && end.err.is_empty() == said.is_empty(), "{end:?}");
        place.restores(&format!("{options} --quiet"));
        // Where nobody listens any more, the result counts.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        assert_eq!(ended(place.command(&format!("restore {options}")).stderr(writer)).status, Some(0));
    }
    for step in ["0", "-0.4", "nan"] {
        let arguments = format!("restore bare.tif -o no.tif --model axial.onnx --z-step {step} --pixel-size 1");
        place.misuses(&arguments, &["--z-step", step, "above 0"]);
    }
}

/// The provenance note in a result.
fn note(place: &Place, name: &str) -> Value {
    let bytes = fs::read(place.path(name)).expect("a file");
    // ImageJ's metadata is UTF-16.
    let text: String = bytes.iter().filter(|&&b| b != 0).map(|&b| char::from(b)).collect();
    let start = text.find("{\"mdr\"").expect("a note");
    serde_json::Deserializer::from_str(&text[start..]).into_iter().next().expect("a note").expect("JSON")
}

#[test]
fn the_built_in_model_of_a_task() {
    let place = Place::new();
    place.put_image("in.tif", &plane(30, 30, 1));
    let built_in: Vec<_> = mdr::models::tasks().collect();
    for task in mdr::Task::ALL.into_iter().filter(|&task| task != mdr::Task::Axial) {
        let run = format!("in.tif -o {task}.tif --task {task}");
        if built_in.contains(&task) {
            place.restores(&run);
            let model = Model::builtin(task).expect("it is listed");
            assert_eq!(note(&place, &format!("{task}.tif"))["sha256"], model.facts().sha256.as_str());
        } else {
            place.refuses(&format!("restore {run}"), &["no built-in model", task.as_str(), "give a model file"]);
        }
    }
    place.restores("in.tif -o default.tif");
    place.restores("in.tif -o named.tif --model denoise");
    assert_eq!(place.image("default.tif").samples, place.image("denoise.tif").samples);
    assert_eq!(place.image("named.tif").samples, place.image("denoise.tif").samples);
    place.refuses("restore in.tif -o no.tif --model denoize", &["denoize", "neither a file nor a built-in model"]);
    let listed = place.works("models");
    assert_eq!(listed.lines().count(), built_in.len());
    for task in built_in {
        assert!(listed.contains(task.as_str()), "{listed}");
        let facts: Value = serde_json::from_str(&place.works(&format!("info {task} --json"))).expect("JSON");
        assert_eq!((&facts["task"], &facts["source"]), (&task.as_str().into(), &"built-in".into()));
    }
}

#[test]
fn force_replaces() {
    let place = Place::new();
    place.put_image("in.tif", &plane(12, 12, 1));
    place.put("out.tif", b"of great value");
    place.refuses("restore in.tif -o out.tif --model mean.onnx", &["out.tif: ", "exists already", "force"]);
    place.restores("in.tif -o out.tif --model mean.onnx --force");
    assert_eq!(place.image("out.tif").info.shape, Shape::plane(12, 12));
}

#[test]
fn the_note_in_the_result_repeats_the_run() {
    let place = Place::new();
    place.put_image("in.tif", &plane(40, 40, 1));
    place.restores("in.tif -o out.tif --model mean.onnx --tile 16 --overlap 6 --channel 0 --normalization mean-std");
    let note = note(&place, "out.tif");
    let facts: Value = serde_json::from_str(&place.works("info mean.onnx --json")).expect("JSON");
    assert_eq!((&note["model"], &note["sha256"]), (&facts["name"], &facts["sha256"]));
    let options: RestoreOptions = serde_json::from_value(note["options"].clone()).expect("options");
    let normalization = Some(Normalization::MeanStd);
    let expected =
        RestoreOptions { tile: Some(16), overlap: Some(6), channel: Some(0), normalization, ..Default::default() };
    assert_eq!(options, expected);
}

// ---- Other commands

#[test]
fn info_tells_the_facts() {
    let place = Place::new();
    let entries = [("mdr.task", "denoise"), ("mdr.name", "Beads"), ("mdr.license", "CC0-1.0")];
    place.put("beads.onnx", &with_metadata(&mean3(), &entries));
    let facts: Value = serde_json::from_str(&place.works("info beads.onnx --json")).expect("JSON");
    let expected = Model::from_bytes("beads.onnx", &fs::read(place.path("beads.onnx")).unwrap()).expect("a model");
    assert_eq!(facts, serde_json::to_value(expected.facts()).unwrap());
    assert_eq!((&facts["name"], &facts["halo"]), (&"Beads".into(), &1.into()));
    let text = place.works("info beads.onnx");
    for words in [["name", "Beads"], ["task", "denoise"], ["license", "CC0-1.0"], ["halo", "1"]] {
        let found = text.lines().any(|line| line.split_whitespace().eq(words));
        assert!(found, "{words:?} is not in {text}");
    }
    let scores = |psnr, ssim| serde_json::json!({"psnr_affine": psnr, "ssim_affine": ssim});
    let set = |data| serde_json::json!({"data": data, "images": 3, "input": scores(17.0, 0.2), "restored": scores(30.126, 0.8)});
    let mut metrics = set("val");
    metrics["test"] = serde_json::json!([set("test")]);
    place.put("scored.onnx", &with_metadata(&mean3(), &[("mdr.metrics", &metrics.to_string())]));
    let text = place.works("info scored.onnx");
    for set in ["val", "test"] {
        assert!(text.contains(&format!("\n{:22}{set} (3): 17.00 dB / 0.200 -> 30.13 dB / 0.800\n", "")), "{text}");
    }
    // Metrics of other programs are shown as they are.
    place.put("scored.onnx", &with_metadata(&mean3(), &[("mdr.metrics", r#"{"loss":1}"#)]));
    assert!(place.works("info scored.onnx").contains(r#"{"loss":1}"#));
    place.refuses("info missing.onnx", &["missing.onnx: "]);
    place.refuses("info missing.onnx --json", &["missing.onnx: "]);
}

#[test]
fn demo_needs_no_file() {
    let place = Place::new();
    let text = place.works("demo shown");
    assert!(text.contains("simulated") && text.contains("shown: montage.png"), "{text}");
    assert!(fs::read(place.path("shown/montage.png")).expect("a picture").starts_with(b"\x89PNG"));
    let [degraded, restored, reference] =
        ["degraded", "restored", "reference"].map(|name| place.image(&format!("shown/{name}.tif")));
    let Shape { y, x, .. } = reference.info.shape;
    let figure = |image: &Image, row: &str| {
        let window = SsimWindow::Uniform;
        let scores = metrics::evaluate(&image.samples, &reference.samples, (y, x), Scale::Reference, window).unwrap();
        let line = text.lines().find(|line| line.starts_with(row)).expect("a row of the table");
        let printed: f64 = line.split_whitespace().nth(1).unwrap().parse().expect("a number");
        assert!((printed - scores.psnr).abs() < 0.02, "{printed}, expected {}", scores.psnr);
        scores.psnr
    };
    assert!(figure(&restored, "restored  ") > figure(&degraded, "degraded  ") + 3.0, "{text}");
    // A blur, its sigma chosen by looking at the truth, does less.
    let mut best = (f64::MIN, f64::MIN);
    for sigma in [0.5, 1.0, 1.5, 2.0, 2.5, 3.0] {
        let blurred = gaussian_blur(&degraded.samples, (y, x), (sigma, sigma)).expect("a blur");
        let scores = metrics::evaluate(&blurred, &reference.samples, (y, x), Scale::Reference, SsimWindow::Uniform);
        let scores = scores.expect("scores");
        best = (best.0.max(scores.psnr), best.1.max(scores.ssim));
    }
    let scores =
        metrics::evaluate(&restored.samples, &reference.samples, (y, x), Scale::Reference, SsimWindow::Uniform);
    let scores = scores.expect("scores");
    assert!(scores.psnr > best.0 + 1.0 && scores.ssim > best.1, "{scores:?}, blurred {best:?}");
    // A second demo replaces the files of the first.
    place.works("demo shown");
    place.put("file", b"of great value");
    place.refuses("demo file", &["file: is a file", "folder"]);
}

/// JSON's figures are those of the library to the last digits, which serde_json may round when it reads them.
#[track_caller]
fn assert_figures(found: &Value, expected: &Scores) {
    let expected = serde_json::json!(expected);
    let (found, expected) = (found.as_object().expect("figures"), expected.as_object().expect("figures"));
    assert!(found.keys().eq(expected.keys()), "{found:?}");
    for (figure, value) in expected {
        let (found, value) = (found[figure].as_f64().expect("a number"), value.as_f64().expect("a number"));
        assert!((found - value).abs() <= 1e-12 * value.abs(), "{figure}: {found}, expected {value}");
    }
}

#[test]
fn evaluate_scores_as_the_library_does() {
    let place = Place::new();
    let (y, x) = (40, 33);
    let reference = plane(y, x, 5);
    let change = |gain: f32, amount: f32, seed| {
        let noisy = reference.samples.iter().zip(noise(seed, y * x)).map(|(s, n)| gain * s + amount * n);
        Image::from_plane(y, x, noisy.collect()).expect("an image")
    };
    let (restored, degraded) = (change(0.8, 20.0, 1), change(0.9, 90.0, 2));
    place.put_image("reference.tif", &reference);
    place.put_image("restored.tif", &restored);
    place.put_image("degraded.tif", &degraded);
    let json = |options: &str| -> Value {
        serde_json::from_str(&place.works(&format!("evaluate restored.tif reference.tif --json {options}"))).unwrap()
    };
    let mut seen = Vec::new();
    for (ssim, window) in [("", SsimWindow::Uniform), ("--ssim gaussian", SsimWindow::Gaussian)] {
        for (options, scale) in [
            ("", Scale::Own),
            ("--scale own", Scale::Own),
            ("--scale as-is", Scale::AsIs),
            ("--scale reference", Scale::Reference),
            ("--scale input --input degraded.tif", Scale::Input(&degraded.samples)),
        ] {
            let scores = metrics::evaluate(&restored.samples, &reference.samples, (y, x), scale, window).unwrap();
            let found = json(&format!("{options} {ssim}"));
            assert_figures(&found["mean"], &scores);
            assert_eq!(found["images"]["restored.tif"], found["mean"]);
            seen.push((scores.psnr, scores.ssim));
        }
    }
    // Every choice leads to figures of its own.
    seen.dedup();
    assert_eq!(seen.len(), 8, "{seen:?}");

    let table = place.works("evaluate restored.tif reference.tif");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(["PSNR", "SSIM", "NRMSE", "affine"].iter().all(|word| lines[0].contains(word)), "{table}");
    let psnr: f64 = lines[1].split_whitespace().nth(1).unwrap().parse().expect("a number");
    assert!(lines[1].starts_with("restored.tif") && (psnr - seen[0].0).abs() < 0.006, "{table}");
}

#[test]
fn evaluate_folders() {
    let place = Place::new();
    let mut all = Vec::new();
    for folder in ["restored", "reference"] {
        place.make_folder(folder);
    }
    for name in ["a.tif", "b.tif"] {
        let reference = plane(20, 24, name.len() as u64 + u64::from(name.as_bytes()[0]));
        let noisy: Vec<_> = reference.samples.iter().zip(noise(1, 480)).map(|(s, n)| s + 30.0 * n).collect();
        place.put_image(&format!("reference/{name}"), &reference);
        place.put_image(&format!("restored/{name}"), &Image::from_plane(20, 24, noisy.clone()).unwrap());
        let window = SsimWindow::Uniform;
        all.push(metrics::evaluate(&noisy, &reference.samples, (20, 24), Scale::Own, window).unwrap());
    }
    let found: Value = serde_json::from_str(&place.works("evaluate restored reference --json")).expect("JSON");
    assert_figures(&found["mean"], &Scores::mean(&all).unwrap());
    assert_figures(&found["images"]["b.tif"], &all[1]);
    let table = place.works("evaluate restored reference");
    assert_eq!(table.lines().count(), 4);
    assert!(table.contains("a.tif") && table.contains("mean of 2"), "{table}");

    fs::remove_file(place.path("restored/b.tif")).unwrap();
    place.refuses("evaluate restored reference", &["restored/b.tif: "]);
    place.put_image("restored/b.tif", &plane(20, 25, 1));
    place.refuses("evaluate restored reference", &["restored/b.tif: ", "reference/b.tif", "25"]);
    place.put_image("restored/b.tif", &Image::from_plane(20, 24, vec![f32::NAN; 480]).unwrap());
    place.refuses("evaluate restored reference", &["restored/b.tif: ", "480 samples that are NaN"]);
}

// ---- Wrong usage

#[test]
fn wrong_usage_is_status_2() {
    let place = Place::new();
    place.make_folder("other");
    for name in ["in.tif", "other/in.tif"] {
        place.put_image(name, &plane(8, 8, 1));
    }
    for (arguments, word) in [
        ("", "Usage"),
        ("sharpen in.tif", "sharpen"),
        ("restore", "INPUT"),
        ("restore in.tif", "--output"),
        ("restore -o out.tif", "INPUT"),
        ("restore in.tif -o out.tif --til 5", "--til"),
        ("restore in.tif -o out.tif --tile big", "auto"),
        ("restore in.tif -o out.tif --tile -3", "-3"),
        ("restore in.tif -o out.tif --overlap some", "auto"),
        ("restore in.tif -o out.tif --threads many", "many"),
        ("restore in.tif -o out.tif --memory-limit much", "much"),
        ("restore in.tif -o out.tif --axes QYX", "TCZYX"),
        ("restore in.tif -o out.tif --channel red", "red"),
        ("restore in.tif -o out.tif --dtype int3", "float32"),
        ("restore in.tif -o out.tif --z-step far", "far"),
        ("restore in.tif -o out.tif --normalization magic", "percentile"),
        ("restore in.tif -o out.tif --task derain", "denoise"),
        ("restore in.tif -o out.png", "out.png: the result is a TIFF file"),
        ("restore in.tif other/in.tif -o out --model mean.onnx", "two inputs are called in.tif"),
        ("evaluate in.tif", "REFERENCE"),
        ("evaluate in.tif other", "two files or two folders"),
        ("evaluate in.tif in.tif --scale input", "--input"),
        ("evaluate in.tif in.tif --scale mine", "as-is"),
        ("info", "MODEL"),
    ] {
        let before = place.content();
        let end = place.mdr(arguments);
        assert_eq!((end.status, end.out.as_str()), (Some(2), ""), "mdr {arguments}: {end:?}");
        assert!(end.err.contains(word) && !end.err.contains("panicked"), "mdr {arguments}: {word:?}: {end:?}");
        assert!(place.content() == before, "mdr {arguments}");
    }
    let help = place.works("restore --help");
    for option in ["--task", "--model", "--tile", "--overlap", "--threads", "--memory-limit", "--axes", "--channel"] {
        assert!(help.contains(option), "{option}");
    }
    assert!(place.works("--version").starts_with(&format!("mdr {}", env!("CARGO_PKG_VERSION"))));
}

// ---- Bad input

#[test]
fn bad_images_get_one_line() {
    let place = Place::new();
    place.put_image("good.tif", &plane(24, 40, 1));
    let good = fs::read(place.path("good.tif")).expect("a file");
    let small = plain_pages(&[vec![7; 900]], 30, 30);
    let huge = with_tag(&with_tag(&small, 256, 100_000), 257, 100_000);
    assert!(huge.len() < 1100);
    let mut rgb = std::io::Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut rgb).expect("a header");
    encoder.write_image::<tiff::encoder::colortype::RGB8>(5, 4, &[9; 60]).expect("a page");
    let rgb = rgb.into_inner();
    for (bytes, words) in [
        (&b""[..], &["empty"][..]),
        (b"this is no TIFF", &["TIFF"]),
        (b"\x89PNG\r\n\x1a\n and so on", &["TIFF"]),
        (&good[..good.len() - 1], &["truncated"]),
        (&with_tag(&good, 259, 7), &["ompression", "7"]),
        (&with_tag(&good, 259, 34892), &["ompression", "34892"]),
        (&with_tag(&good, 339, 6), &["ormat", "6"]),
        (&huge, &["100000x100000"]),
        (&rgb, &["RGB"]),
    ] {
        place.put("bad.tif", bytes);
        let started = Instant::now();
        let words: Vec<_> = ["mdr: bad.tif: "].iter().chain(words).copied().collect();
        place.refuses("restore bad.tif -o out.tif --model mean.onnx", &words);
        assert!(started.elapsed() < Duration::from_secs(10), "{words:?}");
    }
    for end in (1..good.len()).step_by(good.len() / 16) {
        place.put("bad.tif", &good[..end]);
        place.refuses("restore bad.tif -o out.tif --model mean.onnx", &["mdr: bad.tif: "]);
    }
    place.refuses("restore missing.tif -o out.tif --model mean.onnx", &["mdr: missing.tif: "]);
    place.make_folder("none");
    place.refuses("restore none -o out --model mean.onnx", &["mdr: none: ", "no .tif"]);
}

#[test]
fn odd_images_are_restored() {
    let place = Place::new();
    place.put("unet.onnx", &unet(1, 4));
    let mut holes = plane(20, 30, 1);
    let (nan, infinite) = ([0, 1, 29, 77, 599], [30, 300]);
    nan.iter().for_each(|&i| holes.samples[i] = f32::NAN);
    infinite.iter().for_each(|&i| holes.samples[i] = f32::INFINITY);
    for (name, image) in [
        ("holes", holes.clone()),
        ("nothing", Image::from_plane(6, 7, vec![f32::NAN; 42]).unwrap()),
        ("constant", Image::from_plane(9, 11, vec![42.0; 99]).unwrap()),
        ("one", Image::from_plane(1, 1, vec![1234.0]).unwrap()),
        ("line", plane(1, 50, 2)),
    ] {
        place.put_image("in.tif", &image);
        place.restores("in.tif -o out.tif --force --model unet.onnx");
        let restored = place.image("out.tif");
        assert_eq!(restored.info.shape, image.info.shape, "{name}");
        for (i, (found, source)) in restored.samples.iter().zip(&image.samples).enumerate() {
            if source.is_finite() {
                assert!(found.is_finite(), "{name}, sample {i}: {found} of {source}");
            } else {
                assert_eq!(found.to_bits(), source.to_bits(), "{name}, sample {i}");
            }
        }
        place.restores("in.tif -o out.tif --force --model identity.onnx");
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 0.01 || !b.is_finite();
        assert!(place.image("out.tif").samples.iter().zip(&image.samples).all(close), "{name}");
    }
}

#[test]
fn bad_models_get_one_line() {
    let place = Place::new();
    place.put_image("in.tif", &plane(16, 16, 1));
    let mean = mean3();
    for (bytes, words) in [
        (vec![], &["empty"][..]),
        (b"hello".to_vec(), &["not an ONNX file"]),
        (mean[..mean.len() / 2].to_vec(), &["truncated"]),
        (no_output(), &["no output"]),
        (two_outputs(), &["2 outputs"]),
        (two_inputs(), &["2 inputs"]),
        (wrong_rank(), &["2 axes"]),
        (channels_last(), &["channels come last", "N, C, Y, X"]),
        (unknown_operator(), &["Frobnicate"]),
        (with_metadata(&mean, &[("mdr.scale", "2")]), &["mdr.scale is 2", "makes 1"]),
        (with_metadata(&mean, &[("mdr.channels", "3")]), &["mdr.channels is 3", "takes 1"]),
        (with_metadata(&mean, &[("mdr.axes", "ZYX")]), &["ZYX", "\"YX\""]),
    ] {
        place.put("bad.onnx", &bytes);
        let words: Vec<_> = ["bad.onnx: "].iter().chain(words).copied().collect();
        place.refuses("restore in.tif -o out.tif --model bad.onnx", &words);
        place.refuses("info bad.onnx", &words);
    }
    place.refuses("restore in.tif -o out.tif --model missing.onnx", &["missing.onnx: "]);
    place.put("two.onnx", &two_channels());
    place.refuses("restore in.tif -o out.tif --model two.onnx", &["in.tif: ", "2 channels", "found 1"]);
    place.make_folder("empty");
    place.refuses("restore in.tif -o out.tif --model empty", &["empty", "rdf.yaml"]);
}

#[test]
fn bad_outputs_get_one_line() {
    let place = Place::new();
    place.make_folder("in");
    place.make_folder("full");
    place.put_image("in/a.tif", &plane(16, 16, 1));
    place.put_image("in/b.tif", &plane(16, 16, 2));
    place.put("file", b"of great value");
    place.put("full/a.tif", b"of great value");
    for (arguments, words) in [
        ("in/a.tif -o missing/out.tif", &["missing/out.tif: ", "the folder missing does not exist"][..]),
        ("in/a.tif -o file/out.tif", &["file/out.tif: ", "file is not a folder"]),
        ("in -o file", &["file: is a file", "folder"]),
        ("in/a.tif in/b.tif -o file --force", &["file: is a file", "folder"]),
        ("in/a.tif -o full", &["full/a.tif: ", "exists already"]),
        ("in/a.tif -o in/a.tif", &["in/a.tif: the output is the input"]),
        ("in/a.tif -o in/a.tif --force", &["in/a.tif: the output is the input"]),
        ("in/a.tif -o in/../in/a.tif --force", &["in/a.tif: the output is the input"]),
        ("in/a.tif -o in --force", &["in/a.tif: the output is the input"]),
    ] {
        place.refuses(&format!("restore {arguments} --model mean.onnx"), words);
    }
    let before = place.content();
    let end = place.mdr("restore in -o in --force --model mean.onnx");
    assert_eq!((end.status, end.err.lines().count()), (Some(1), 3), "{end:?}");
    assert!(place.content() == before);
    if cfg!(target_os = "linux") {
        // Nobody, not even root, can write there.
        place.refuses("restore in/a.tif -o /proc/out.tif --model mean.onnx", &["/proc/out.tif: "]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_nothing() {
    let place = Place::new();
    place.make_folder("disk");
    place.put_image("in.tif", &plane(256, 256, 1));
    let namespace = |script: &str| {
        let script = format!("mount -t tmpfs -o size=64k tmpfs disk && {{ {script}; }}");
        ended(Command::new("unshare").args(["-rm", "sh", "-c", &script]).current_dir(place.0.path()))
    };
    if Command::new("unshare").arg("--version").output().is_err() || namespace("true").status != Some(0) {
        return skipped("a_full_disk_leaves_nothing: no file system may be mounted here, even in a namespace");
    }
    let run = |output: &str, options: &str| {
        let program = env!("CARGO_BIN_EXE_mdr");
        let restore = format!("{program} restore in.tif -o {output} --model mean.onnx {options}");
        // What is there afterwards is printed.
        namespace(&format!("echo old > disk/old.tif; {restore}; status=$?; ls -A disk; cat disk/old.tif; exit $status"))
    };
    for (output, options) in [("disk/out.tif", ""), ("disk/old.tif", "--force")] {
        let end = run(output, options);
        assert_eq!((end.status, end.out.as_str()), (Some(1), "old.tif\nold\n"), "{end:?}");
        assert_one_line(&end.err);
        assert!(end.err.contains(output) && end.err.contains("space"), "{end:?}");
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_no_partial_file() {
    let place = Place::new();
    place.put("unet.onnx", &unet(2, 16));
    place.put_image("in.tif", &stack(Shape { t: 1, c: 1, z: 16, y: 700, x: 700 }, PixelType::U16));
    place.put("old.tif", b"of great value");
    place.make_folder("in");
    for name in ["in/a.tif", "in/b.tif"] {
        fs::copy(place.path("in.tif"), place.path(name)).expect("a copy");
    }
    place.make_folder("out");
    let mut moments = Numbers::new(1);
    let before = place.content();
    let partial = |folder: &str| {
        fs::read_dir(place.path(folder)).is_ok_and(|mut all| {
            all.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains(".partial-")))
        })
    };
    for signal in ["-INT", "-TERM"] {
        for (run, folder) in [("in.tif -o new.tif", "."), ("in.tif -o old.tif --force", "."), ("in -o out", "out")] {
            let mut command = place.command(&format!("restore {run} --model unet.onnx --tile 32 --threads 2"));
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
            let started = Instant::now();
            while !partial(folder) {
                assert!(started.elapsed() < Duration::from_secs(60), "{run}: no partial file has appeared");
                assert_eq!(child.try_wait().expect("a child"), None, "{run}");
                std::thread::sleep(Duration::from_millis(1));
            }
            let moment = Duration::from_millis(moments.below(150) as u64);
            std::thread::sleep(moment);
            let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
            assert!(sent.success());
            let (interrupted, output) = (Instant::now(), child.wait_with_output().expect("a child"));
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let found = (output.status.code(), &*out, &*err);
            let said = if folder == "out" { "mdr: cancelled at in/a.tif (1 of 2)\n" } else { "mdr: cancelled\n" };
            assert_eq!(found, (Some(1), "", said), "{run} {signal} after {moment:?}");
            assert!(interrupted.elapsed() < Duration::from_secs(10), "{run}: {:?}", interrupted.elapsed());
            assert!(place.content() == before, "{run} {signal} after {moment:?}: {:?}", place.content().keys());
        }
    }
}

#[test]
#[cfg(unix)]
fn a_reader_that_leaves_is_no_error() {
    let place = Place::new();
    for arguments in ["info mean.onnx", "info mean.onnx --json", "models"] {
        let mut command = place.command(arguments);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let end = ended(command.stdout(writer));
        assert_eq!((end.status, end.err.as_str()), (Some(0), ""), "{arguments}: {end:?}");
    }
    // Nor is a terminal that is gone, but what was to be said there is still a failure.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let end = ended(place.command("info missing.onnx").stderr(writer));
    assert_eq!(end.status, Some(1), "{end:?}");
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        let end = ended(place.command("info mean.onnx").stdout(full));
        assert_eq!(end.status, Some(1), "{end:?}");
        assert_one_line(&end.err);
    }
}
