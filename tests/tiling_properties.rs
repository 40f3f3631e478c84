//! Properties of the whole pipeline through the Rust API: tiles cannot be seen, whatever their size, overlap and
//! number of threads; what goes in besides pixels comes out; odd images are restored or refused, never a panic.

mod common;

use common::{
    Attribute, Net, Numbers, beads, identity, identity_3d, mean3, noise, scaled, unet, upsample2, with_metadata,
};
use mdr::network::{RunOptions, Watch};
use mdr::restore::{fit_planes, output_info, restore_planes};
use mdr::{
    Error, Image, ImageInfo, Model, Normalization, PixelType, PlaneIndex, PlaneSource, RestoreOptions, Shape, Task,
    restore,
};

fn model(bytes: &[u8]) -> Model {
    Model::from_bytes("test", bytes).expect("a test model loads")
}

fn run(model: &Model, image: &Image, options: &RestoreOptions) -> mdr::Result<Image> {
    restore(model, image, options, &mut |_| true)
}

fn untiled() -> RestoreOptions {
    RestoreOptions { tile: Some(1 << 20), threads: Some(1), ..RestoreOptions::default() }
}

/// Largest difference as a part of the range of the expected image.
fn relative_difference(found: &Image, expected: &Image) -> f32 {
    assert_eq!(found.info.shape, expected.info.shape);
    let min = expected.samples.iter().copied().fold(f32::INFINITY, f32::min);
    let max = expected.samples.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = found.samples.iter().zip(&expected.samples).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    largest / (max - min).max(f32::MIN_POSITIVE)
}

#[test]
fn tiles_cannot_be_seen() {
    let mut numbers = Numbers::new(11);
    let models = [model(&unet(2, 4)), model(&unet(1, 3)), model(&mean3()), model(&upsample2()), model(&identity())];
    let sides = [1, 2, 3, 5, 16, 31, 64, 97, 130];
    let mut tiled = 0;
    for round in 0..160 {
        let model = &models[round % models.len()];
        let (y, x) = (sides[numbers.below(sides.len())], sides[numbers.below(sides.len())]);
        let image = Image::from_plane(y, x, beads(y, x, round as u64)).expect("length fits");
        let self_ensemble = round % 7 == 3;
        let expected = run(model, &image, &RestoreOptions { self_ensemble, ..untiled() }).expect("untiled");
        let options = RestoreOptions {
            tile: Some(1 + numbers.below(80)),
            overlap: Some(numbers.below(60)),
            threads: Some(1 + numbers.below(4)),
            self_ensemble,
            ..RestoreOptions::default()
        };
        let mut tiles = 0;
        let found = restore(model, &image, &options, &mut |progress| {
            tiles = progress.total / Watch::TILE / if self_ensemble { 8 } else { 1 };
            true
        })
        .expect("tiled");
        tiled += usize::from(tiles > 1);
        let difference = relative_difference(&found, &expected);
        assert!(difference <= 1e-5, "{y}x{x} {options:?}: {difference}");
    }
    assert!(tiled > 60, "only {tiled} of 160 cases had more than one tile");
}

/// A convolution that treats no direction like another; sides of the image Z, Y, X or Y, X, `None` for free ones.
fn lopsided(sides: &[Option<usize>]) -> Vec<u8> {
    let mut net = Net::with_input(&[&[None, Some(1)], sides].concat());
    let kernel = vec![3; sides.len()];
    let weight = net.floats(&[vec![1, 1], kernel].concat(), &noise(9, 3usize.pow(sides.len() as u32)));
    let y = net.op("Conv", &["image", &weight], &[("pads", Attribute::Ints(vec![1; 2 * sides.len()]))]);
    let y = net.op("Relu", &[&y], &[]);
    net.finish(&y)
}

/// Of networks that are not symmetric, against images that are turned by hand.
#[test]
fn a_self_ensemble_is_the_mean_of_what_turned_images_become() {
    let plane = [1, 52, 36];
    let axial = with_metadata(&unet(2, 4), &[("mdr.task", Task::Axial.as_str())]);
    let of_one_size = lopsided(&[Some(52), Some(36)]);
    for (bytes, [depth, rows, columns], orientations) in
        [(unet(2, 4), plane, 8), (axial, plane, 4), (of_one_size, plane, 4), (lopsided(&[None; 3]), [5, 20, 13], 8)]
    {
        let model = model(&bytes);
        let image_of = |y, x, samples| {
            let info = ImageInfo::new(Shape { t: 1, c: 1, z: depth, y, x }, PixelType::F32);
            Image::new(info, samples).expect("length fits")
        };
        let image = image_of(rows, columns, beads(depth * rows, columns, 5));
        let mut mean = Image::zeros(image.info.clone()).expect("memory");
        for orientation in 0..orientations {
            // Where a pixel lies in the turned image.
            let size = if orientation < 4 { [rows, columns] } else { [columns, rows] };
            let place = |z: usize, i: usize, j: usize| {
                let [y, x] = if orientation < 4 { [i, j] } else { [j, i] };
                let y = if orientation % 2 == 1 { size[0] - 1 - y } else { y };
                let x = if orientation / 2 % 2 == 1 { size[1] - 1 - x } else { x };
                (z * size[0] + y) * size[1] + x
            };
            let at = |place: usize| [place / columns / rows, place / columns % rows, place % columns];
            let mut turned = vec![0.0; image.samples.len()];
            for (pixel, sample) in image.samples.iter().enumerate() {
                let [z, i, j] = at(pixel);
                turned[place(z, i, j)] = *sample;
            }
            let options = RestoreOptions { slices: true, ..untiled() };
            let restored = run(&model, &image_of(size[0], size[1], turned), &options).expect("restored");
            for (pixel, sample) in mean.samples.iter_mut().enumerate() {
                let [z, i, j] = at(pixel);
                *sample += restored.samples[place(z, i, j)] / orientations as f32;
            }
        }
        let options = RestoreOptions { self_ensemble: true, slices: true, ..untiled() };
        let mut parts = 0;
        let found = restore(&model, &image, &options, &mut |progress| {
            parts = progress.total;
            true
        });
        let found = found.expect("restored");
        assert_eq!(parts, orientations * Watch::TILE);
        assert!(relative_difference(&found, &mean) < 1e-5, "{depth} {rows} {columns} {orientations}");
        let plain = run(&model, &image, &RestoreOptions { slices: true, ..untiled() }).expect("restored");
        assert!(relative_difference(&plain, &mean) > 1e-3, "{depth} {rows} {columns}: turned images become the same");
    }
}

#[test]
fn volumes_are_tiled_along_all_axes() {
    let model = model(&lopsided(&[None; 3]));
    let shape = Shape { t: 2, c: 2, z: 9, y: 20, x: 33 };
    let image = Image::new(ImageInfo::new(shape, PixelType::F32), noise(3, shape.len())).expect("length fits");
    for (tile, overlap, threads, self_ensemble) in [(4, 0, 2, false), (7, 5, 3, true), (12, 9, 1, false)] {
        let expected = run(&model, &image, &RestoreOptions { self_ensemble, ..untiled() }).expect("untiled");
        let options = RestoreOptions {
            tile: Some(tile),
            overlap: Some(overlap),
            threads: Some(threads),
            self_ensemble,
            ..RestoreOptions::default()
        };
        let difference = relative_difference(&run(&model, &image, &options).expect("tiled"), &expected);
        assert!(difference <= 1e-5, "{tile} {overlap}: {difference}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let model = model(&unet(2, 4));
    let shape = Shape { t: 2, c: 2, z: 3, y: 90, x: 70 };
    let image = Image::new(ImageInfo::new(shape, PixelType::F32), noise(5, shape.len())).expect("length fits");
    let with = |threads| {
        let options =
            RestoreOptions { tile: Some(48), overlap: Some(40), threads: Some(threads), ..RestoreOptions::default() };
        run(&model, &image, &options).expect("restored").samples
    };
    let one = with(1);
    for threads in [2, 3, 8] {
        assert!(one.iter().zip(with(threads)).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} threads");
    }
}

/// A plane or stack of any size, without a pixel; what it says when it is read.
struct Claimed(ImageInfo, fn() -> Error);

impl PlaneSource for Claimed {
    fn info(&self) -> &ImageInfo {
        &self.0
    }

    fn read_plane(&mut self, _: PlaneIndex, _: &mut [f32]) -> mdr::Result<()> {
        Err(self.1())
    }
}

/// They are counted, not listed.
#[test]
fn of_absurdly_many_channels_the_first_is_read() {
    let mut claimed =
        Claimed(ImageInfo::new(Shape { c: 1 << 50, ..Shape::plane(1, 1) }, PixelType::U8), || Error::Cancelled);
    let mut nowhere = Image::zeros(ImageInfo::new(Shape::plane(1, 1), PixelType::F32)).unwrap();
    let run =
        restore_planes(&model(&identity()), &mut claimed, &mut nowhere, &RestoreOptions::default(), &mut |_| true);
    assert!(matches!(run, Err(Error::Cancelled)), "{run:?}");
}

/// Neither model needs an overlap, so that tiles could be one pixel small.
#[test]
fn an_image_that_no_memory_holds_is_refused_before_its_tiles_are_listed() {
    let mut nowhere = Image::zeros(ImageInfo::new(Shape::plane(1, 1), PixelType::F32)).unwrap();
    let mut refusal = |bytes: &[u8], shape, options: &RestoreOptions| {
        let unread = || panic!("refused before the first plane is read");
        let mut claimed = Claimed(ImageInfo::new(shape, PixelType::U8), unread);
        let error = restore_planes(&model(bytes), &mut claimed, &mut nowhere, options, &mut |_| true).unwrap_err();
        assert!(matches!(error, Error::InvalidOption(_)), "{error:?}");
        error.to_string()
    };
    let deep = Shape { z: 1 << 50, ..Shape::plane(1, 1) };
    for (bytes, shape) in [(identity(), Shape::plane(1, 4_000_000_000)), (identity_3d(), deep)] {
        let text = refusal(&bytes, shape, &RestoreOptions::default());
        assert!(text.contains("memory limit 2048 MB: the planes") && text.contains("raise the limit"), "{text}");
    }
    // Where memory does not bind, the number of tiles does.
    let options = RestoreOptions { tile: Some(1), memory_limit_mb: Some(u64::MAX), ..RestoreOptions::default() };
    let text = refusal(&identity(), Shape::plane(1, 4_000_000_000), &options);
    assert!(text.contains("more than 1048576 tiles"), "{text}");
}

/// Counts how often planes of an image are read.
struct Counting<'a> {
    image: &'a Image,
    reads: usize,
}

impl PlaneSource for Counting<'_> {
    fn info(&self) -> &ImageInfo {
        &self.image.info
    }

    fn read_plane(&mut self, index: PlaneIndex, samples: &mut [f32]) -> mdr::Result<()> {
        self.reads += 1;
        self.image.as_source().read_plane(index, samples)
    }
}

/// The only plane that is restored is not read a second time after its statistics. Of several, each is read for these, twice
/// if a channel has many planes of floats, and to be restored. The result is that of statistics taken before.
#[test]
fn the_only_plane_is_read_once() {
    let model = model(&mean3());
    for (z, c, channel, reads) in [(1, 1, None, 1), (1, 2, Some(1), 1), (2, 1, None, 6), (1, 2, None, 4)] {
        let shape = Shape { t: 1, c, z, y: 30, x: 40 };
        let mut samples = noise(5, shape.len());
        samples[7] = f32::NAN;
        let image = Image::new(ImageInfo::new(shape, PixelType::F32), samples).expect("length fits");
        let options = RestoreOptions { channel, ..RestoreOptions::default() };
        let mut source = Counting { image: &image, reads: 0 };
        let mut restored = Image::zeros(output_info(&model, &image.info, &options).expect("options fit")).unwrap();
        restore_planes(&model, &mut source, &mut restored, &options, &mut |_| true).expect("restored");
        assert_eq!(source.reads, reads, "{z} planes of {c} channels");
        let fitted = fit_planes(&model, &mut image.as_source(), &options, &mut || true).expect("fitted");
        let expected = run(&model, &image, &RestoreOptions { fitted: Some(fitted), ..options }).expect("restored");
        let bits = |image: &Image| image.samples.iter().map(|sample| sample.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&restored), bits(&expected), "{z} planes of {c} channels");
    }
}

#[test]
fn every_plane_is_restored_as_if_alone() {
    let plain = with_metadata(&mean3(), &[("mdr.normalization", r#"{"kind":"none"}"#)]);
    let model = model(&plain);
    let shape = Shape { t: 2, c: 3, z: 2, y: 12, x: 10 };
    let image = Image::new(ImageInfo::new(shape, PixelType::F32), noise(7, shape.len())).expect("length fits");
    let whole = run(&model, &image, &RestoreOptions::default()).expect("stack");
    for (i, plane) in image.samples.chunks(shape.plane_len()).enumerate() {
        let alone = Image::from_plane(12, 10, plane.to_vec()).expect("length fits");
        let alone = run(&model, &alone, &RestoreOptions::default()).expect("plane");
        assert_eq!(whole.samples[i * 120..(i + 1) * 120], alone.samples);
    }
    let options = RestoreOptions { channel: Some(2), ..RestoreOptions::default() };
    let channel = run(&model, &image, &options).expect("channel");
    assert_eq!(channel.info.shape, Shape { c: 1, ..shape });
    assert_eq!(channel.info.axes.as_str(), "TZYX");
    assert_eq!(channel.samples[..240], whole.samples[4 * 120..6 * 120]);
}

#[test]
fn intensities_come_back_whatever_their_scale() {
    for (gain, offset) in [(1.0, 0.0), (1e-6, 0.0), (1e6, -3e5), (0.5, 100.0)] {
        let samples: Vec<f32> = beads(40, 50, 2).iter().map(|v| v * gain + offset).collect();
        let image = Image::from_plane(40, 50, samples).expect("length fits");
        let normalizations =
            [Normalization::Percentile { low: 2.0, high: 99.8 }, Normalization::MeanStd, Normalization::None];
        for normalization in normalizations {
            let options = RestoreOptions { normalization: Some(normalization), ..RestoreOptions::default() };
            let found = run(&model(&identity()), &image, &options).expect("restored");
            assert!(relative_difference(&found, &image) < 1e-5, "{gain} {offset} {normalization:?}");
        }
    }
}

#[test]
fn pixels_that_are_not_finite_stay_and_do_no_harm() {
    let model = model(&unet(2, 4));
    let clean = beads(48, 64, 9);
    let mut damaged = clean.clone();
    let holes = [(0, f32::NAN), (70, f32::INFINITY), (1000, f32::NEG_INFINITY), (3071, f32::NAN)];
    for (at, value) in holes {
        damaged[at] = value;
    }
    damaged[20 * 64..21 * 64].fill(f32::NAN);
    let image = Image::from_plane(48, 64, damaged.clone()).expect("length fits");
    let restored = run(&model, &image, &RestoreOptions::default()).expect("restored");
    for (found, given) in restored.samples.iter().zip(&damaged) {
        assert_eq!(found.is_finite(), given.is_finite());
        assert!(given.is_finite() || found.to_bits() == given.to_bits());
    }
    let everything = Image::from_plane(4, 4, vec![f32::NAN; 16]).expect("length fits");
    let restored = run(&model, &everything, &RestoreOptions::default()).expect("restored");
    assert!(restored.samples.iter().all(|value| value.is_nan()));
    let twice = run(&self::model(&upsample2()), &image, &RestoreOptions::default()).expect("restored");
    assert!(twice.samples[0].is_nan() && twice.samples[1].is_nan() && twice.samples[128].is_nan());
    assert!(twice.samples[2].is_finite());
}

/// What stands for "no data" in images of floats would overflow in the network, all around.
#[test]
fn pixels_beyond_all_others_stay_and_do_no_harm() {
    let model = model(&unet(2, 4));
    let clean: Vec<f32> = beads(48, 64, 9).iter().map(|value| value * 1e-3).collect();
    for nodata in [f32::MIN, f32::MAX, 1e35] {
        let (mut damaged, mut hole) = (clean.clone(), clean.clone());
        (damaged[1000], hole[1000]) = (nodata, f32::NAN);
        let [damaged, hole] = [damaged, hole].map(|samples| Image::from_plane(48, 64, samples).expect("length fits"));
        // It counts in percentiles, among thousands of others.
        let options = RestoreOptions::default();
        let fitted = fit_planes(&model, &mut hole.as_source(), &options, &mut || true).expect("fitted");
        let options = RestoreOptions { fitted: Some(fitted), ..options };
        let [restored, expected] = [damaged, hole].map(|image| run(&model, &image, &options).expect("restored"));
        assert_eq!(restored.samples[1000], nodata);
        let same = restored.samples.iter().zip(&expected.samples).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
        assert_eq!(same, restored.samples.len() - 1, "{nodata} harms its neighbours");
    }
}

#[test]
fn what_a_network_makes_of_finite_pixels_is_finite_or_an_error() {
    let image = Image::from_plane(12, 10, noise(3, 120)).expect("length fits");
    for bytes in [scaled(f32::NAN), scaled(f32::INFINITY), scaled(3e38)] {
        let bytes = with_metadata(&bytes, &[("mdr.normalization", r#"{"kind":"linear","gain":100.0,"offset":0.0}"#)]);
        let error = run(&model(&bytes), &image, &RestoreOptions::default()).expect_err("not finite");
        assert!(error.to_string().contains("not finite"), "{error}");
    }
    let far = with_metadata(&identity(), &[("mdr.normalization", r#"{"kind":"linear","gain":1e200,"offset":0.0}"#)]);
    let error = run(&model(&far), &image, &RestoreOptions::default()).expect_err("beyond all numbers");
    assert!(error.to_string().contains("does not suit"), "{error}");
}

#[test]
fn constant_and_tiny_images_are_restored() {
    for bytes in [unet(2, 4), mean3(), identity(), upsample2()] {
        let model = model(&bytes);
        for (y, x) in [(1, 1), (1, 7), (9, 1), (2, 2), (33, 17)] {
            let image = Image::from_plane(y, x, vec![42.5; y * x]).expect("length fits");
            let restored = run(&model, &image, &RestoreOptions::default()).expect("restored");
            assert!(restored.samples.iter().all(|&value| value == 42.5), "{y}x{x}");
        }
    }
}

#[test]
fn the_grid_of_the_result_has_its_pixel_size() {
    let mut info = ImageInfo::new(Shape { t: 1, c: 1, z: 3, y: 5, x: 6 }, PixelType::U16);
    info.pixel_size_um = Some(0.2);
    info.z_step_um = Some(0.5);
    let image = Image::new(info, noise(1, 90)).expect("length fits");
    let restored = run(&model(&upsample2()), &image, &RestoreOptions::default()).expect("restored");
    assert_eq!(restored.info.shape, Shape { t: 1, c: 1, z: 3, y: 10, x: 12 });
    assert_eq!((restored.info.pixel_size_um, restored.info.z_step_um), (Some(0.1), Some(0.5)));
    assert_eq!(restored.info.pixel_type, PixelType::F32);
    let note: serde_json::Value = serde_json::from_str(&restored.info.provenance).expect("the note is JSON");
    assert_eq!(note["model"], "test");
    assert_eq!(note["sha256"].as_str().map(str::len), Some(64));
}

/// The identity network on a stack that is linear in Z: resampling to isotropic pixels is exact, and the average of
/// XZ and YZ slices is the stack itself.
#[test]
fn axial_makes_an_isotropic_stack() {
    let model = model(&with_metadata(&identity(), &[("mdr.task", "axial")]));
    let shape = Shape { t: 2, c: 2, z: 4, y: 6, x: 5 };
    let mut info = ImageInfo::new(shape, PixelType::F32);
    info.pixel_size_um = Some(0.1);
    info.z_step_um = Some(0.25);
    let value = |t: usize, c: usize, z: f32, y: usize, x: usize| {
        z * 10.0 + (t * 100 + c * 1000) as f32 + y as f32 + 0.1 * x as f32
    };
    let fill = |shape: Shape, step: f32| {
        let mut samples = Vec::new();
        for (t, c) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for z in 0..shape.z {
                for y in 0..shape.y {
                    samples.extend((0..shape.x).map(|x| value(t, c, z as f32 * step, y, x)));
                }
            }
        }
        samples
    };
    let image = Image::new(info, fill(shape, 1.0)).expect("length fits");
    let restored = run(&model, &image, &RestoreOptions::default()).expect("restored");
    assert_eq!(restored.info.shape, Shape { z: 8, ..shape });
    assert_eq!((restored.info.pixel_size_um, restored.info.z_step_um), (Some(0.1), Some(0.1)));
    let expected = fill(restored.info.shape, 0.4);
    assert!(restored.samples.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-2));

    let without = Image::new(ImageInfo::new(shape, PixelType::F32), image.samples.clone()).expect("length fits");
    let error = run(&model, &without, &RestoreOptions::default()).expect_err("pixel sizes are missing");
    assert!(error.to_string().contains("z step"), "{error}");
    let options = RestoreOptions { pixel_size_um: Some(0.1), z_step_um: Some(0.25), ..RestoreOptions::default() };
    assert_eq!(run(&model, &without, &options).expect("restored").samples, restored.samples);
    let options = RestoreOptions { channel: Some(1), ..RestoreOptions::default() };
    let channel = run(&model, &image, &options).expect("restored");
    let planes = 8 * 30;
    assert_eq!(channel.samples[..planes], restored.samples[planes..2 * planes]);
    let plane = Image::from_plane(6, 5, vec![1.0; 30]).expect("length fits");
    assert!(matches!(run(&model, &plane, &options), Err(Error::InvalidOption(_) | Error::ShapeMismatch { .. })));
}

#[test]
fn a_foreign_model_can_be_told_its_task() {
    let mut info = ImageInfo::new(Shape { t: 1, c: 1, z: 3, y: 8, x: 8 }, PixelType::F32);
    (info.pixel_size_um, info.z_step_um) = (Some(1.0), Some(2.0));
    let image = Image::new(info, noise(2, 192)).expect("length fits");
    let options = RestoreOptions { task: Some(Task::Axial), ..RestoreOptions::default() };
    assert_eq!(run(&model(&identity()), &image, &options).expect("restored").info.shape.z, 5);
}

/// No layer is far ahead of the next, also where the first result needs many rows of the first layers.
#[test]
fn a_deep_network_keeps_few_rows_of_each_layer() {
    let (layers, features, columns) = (40, 16, 512);
    let mut net = Net::new(2, 1);
    let mut x = net.conv("image", 1, features, 3);
    for _ in 1..layers {
        x = net.conv(&x, features, features, 3);
    }
    let y = net.conv(&x, features, 1, 3);
    let bytes = model(&net.finish(&y)).network().memory_bytes([1, 2048, columns], RunOptions::default());
    let row = 4 * features * columns;
    let rows = bytes as usize / row / layers;
    assert!(rows < 32, "{rows} rows of each of {layers} layers");
}

#[test]
fn tall_images_need_fewer_rows_at_once() {
    let unet = model(&unet(3, 8));
    let bytes = |rows| unet.network().memory_bytes([1, rows, 2048], RunOptions::default());
    let (usual, tall) = (bytes(2040), bytes(2048));
    assert!(5 * tall < 4 * usual, "{tall} bytes, {usual} of an image that is a little lower");
    let image = Image::from_plane(2100, 50, beads(2100, 50, 4)).expect("length fits");
    let tiles = RestoreOptions { tile: Some(400), ..RestoreOptions::default() };
    let found = run(&unet, &image, &untiled()).expect("untiled");
    let expected = run(&unet, &image, &tiles).expect("tiled");
    assert!(relative_difference(&found, &expected) <= 1e-5);
}

#[test]
fn the_memory_limit_is_kept_or_the_run_refused() {
    let unet = model(&unet(2, 16));
    let image = Image::from_plane(400, 400, beads(400, 400, 4)).expect("length fits");
    let expected = run(&unet, &image, &untiled()).expect("untiled");
    let limited = RestoreOptions { memory_limit_mb: Some(44), ..RestoreOptions::default() };
    let mut tiles = 0;
    let found = restore(&unet, &image, &limited, &mut |progress| {
        tiles = progress.total / Watch::TILE;
        true
    });
    assert!(relative_difference(&found.expect("restored"), &expected) <= 1e-5);
    assert!(tiles > 4, "{tiles} tiles under a limit of 44 MB");
    let tight = RestoreOptions { memory_limit_mb: Some(1), ..RestoreOptions::default() };
    let error = run(&unet, &image, &tight).expect_err("1 MB cannot hold the image");
    assert!(error.to_string().contains("raise the limit"), "{error}");
}

#[test]
fn a_model_that_looks_at_the_whole_image_is_not_tiled() {
    let model = model(&common::instance_norm());
    let image = Image::from_plane(60, 60, beads(60, 60, 4)).expect("length fits");
    let options = RestoreOptions { tile: Some(16), ..RestoreOptions::default() };
    let mut tiles = 0;
    restore(&model, &image, &options, &mut |progress| {
        tiles = progress.total / Watch::TILE;
        true
    })
    .expect("restored");
    assert_eq!(tiles, 1);
    let large = Image::from_plane(1500, 1500, vec![1.0; 2_250_000]).expect("length fits");
    let options = RestoreOptions { memory_limit_mb: Some(20), ..RestoreOptions::default() };
    let error = run(&model, &large, &options).expect_err("too large untiled").to_string();
    assert!(error.contains("cannot be tiled") && error.contains("InstanceNormalization"), "{error}");
}

#[test]
fn options_without_sense_are_refused() {
    let image = Image::from_plane(8, 8, noise(1, 64)).expect("length fits");
    let default = RestoreOptions::default;
    for options in [
        RestoreOptions { tile: Some(0), ..default() },
        RestoreOptions { threads: Some(0), ..default() },
        RestoreOptions { memory_limit_mb: Some(0), ..default() },
        RestoreOptions { channel: Some(1), ..default() },
        RestoreOptions { pixel_size_um: Some(-1.0), ..default() },
        RestoreOptions { z_step_um: Some(f64::NAN), ..default() },
        RestoreOptions { normalization: Some(Normalization::Percentile { low: 50.0, high: 50.0 }), ..default() },
    ] {
        assert!(matches!(run(&model(&identity()), &image, &options), Err(Error::InvalidOption(_))), "{options:?}");
    }
    // Absurd, but harmless.
    for options in [
        RestoreOptions { tile: Some(usize::MAX), ..default() },
        RestoreOptions { overlap: Some(usize::MAX), ..default() },
        RestoreOptions { threads: Some(usize::MAX), ..default() },
        RestoreOptions { memory_limit_mb: Some(u64::MAX), ..default() },
    ] {
        assert!(run(&model(&identity()), &image, &options).is_ok(), "{options:?}");
    }
}

#[test]
fn cancelling_ends_the_run() {
    let model = model(&unet(1, 3));
    let image = Image::from_plane(100, 100, noise(1, 10_000)).expect("length fits");
    let options = RestoreOptions { tile: Some(32), threads: Some(2), ..RestoreOptions::default() };
    let mut calls = 0;
    let outcome = restore(&model, &image, &options, &mut |progress| {
        calls += 1;
        progress.done < 3
    });
    assert!(matches!(outcome, Err(Error::Cancelled)));
    assert!(calls < 12, "{calls} calls");
}

#[test]
fn a_run_of_one_tile_shows_how_far_it_is_and_stops_when_asked() {
    let unet = model(&unet(2, 16));
    let image = Image::from_plane(1800, 1800, beads(1800, 1800, 4)).expect("length fits");
    let options = RestoreOptions { tile: Some(1800), threads: Some(2), ..RestoreOptions::default() };
    let mut seen = vec![];
    restore(&unet, &image, &options, &mut |progress| {
        assert_eq!(progress.total, Watch::TILE);
        seen.push(progress.done);
        true
    })
    .expect("restored");
    assert!(seen.is_sorted() && seen.last() == Some(&Watch::TILE), "{seen:?}");
    assert!(seen.iter().any(|&done| 0 < done && done < Watch::TILE), "{seen:?}");

    let mut last = 0;
    let stopped = restore(&unet, &image, &options, &mut |progress| {
        last = progress.done;
        last == 0
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert!(last < Watch::TILE, "it was over before it was stopped");

    let watch = Watch::default();
    let (mut output, run) = (vec![], RunOptions { threads: 2, ..RunOptions::default() });
    unet.network().run_into(&image.samples, [1, 1800, 1800], &mut output, run, &watch).expect("runs");
    assert_eq!(watch.done(), Watch::TILE);
    watch.stop();
    let stopped = unet.network().run_into(&image.samples, [1, 1800, 1800], &mut output, run, &watch);
    assert!(matches!(stopped, Err(Error::Cancelled)));
}
