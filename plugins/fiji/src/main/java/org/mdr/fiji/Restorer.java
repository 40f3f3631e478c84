package org.mdr.fiji;

import ij.CompositeImage;
import ij.IJ;
import ij.ImagePlus;
import ij.ImageStack;
import ij.WindowManager;
import ij.gui.Overlay;
import ij.gui.Roi;
import ij.measure.Calibration;
import ij.plugin.RoiScaler;
import ij.process.LUT;
import java.util.Map;

/**
 * An {@link ImagePlus} → planes → libmdr → planes → an {@link ImagePlus} that keeps what the source was: calibration,
 * dimensions, lookup tables, display ranges, labels, overlay, selection and Info.
 *
 * <p>Pixels are taken as they are stored: a calibration function (density, signed 16 bit) has no part in the
 * restoration, as for the command line; the result keeps it where it keeps the type.
 */
final class Restorer {
    private final ImagePlus source;
    private final String task;
    private final RestoreOptions options;
    private final ImageStack stack;
    private final String json;
    /** The first time point and plane that are restored, from 0. */
    private final int firstT;
    private final int firstZ;
    /** T, C, Z, Y, X. */
    private final long[] shape;

    private static final String AXES = "TCZYX";

    Restorer(ImagePlus source, String task, RestoreOptions options) {
        check(source);
        this.source = source;
        this.task = task;
        this.options = options;
        stack = source.getStack();
        boolean one = options.planes != RestoreOptions.Planes.ALL;
        boolean plane = options.planes == RestoreOptions.Planes.PLANE;
        firstT = one ? source.getT() - 1 : 0;
        firstZ = plane ? source.getZ() - 1 : 0;
        shape = new long[] {
            one ? 1 : source.getNFrames(),
            source.getNChannels(),
            plane ? 1 : source.getNSlices(),
            source.getHeight(),
            source.getWidth(),
        };
        if (options.channel > shape[1]) {
            throw MacroOptions.wrong("channel=" + options.channel + ": \"" + source.getTitle() + "\" has " + shape[1]);
        }
        json = options.json(task, source);
    }

    /** Refuses what is no grey-value image, with advice. */
    static void check(ImagePlus source) {
        if (source == null) {
            throw new MdrException(MdrException.INVALID_ARGUMENT, "no image is open; open one first");
        }
        if (source.getProcessor() == null) {
            throw new MdrException(MdrException.INVALID_ARGUMENT, "\"" + source.getTitle() + "\" has no pixels");
        }
        if (source.getType() == ImagePlus.COLOR_RGB) {
            throw new MdrException(
                    MdrException.INVALID_ARGUMENT,
                    "\"" + source.getTitle() + "\" is an RGB image, which is a picture of measured channels; restore the"
                            + " channels themselves, or make some of it by Image > Color > Split Channels or"
                            + " Image > Type > RGB Stack");
        }
    }

    /** Runs the model. */
    ImagePlus run(MdrModel model, Progress progress) {
        try {
            return restored(model, progress);
        } catch (OutOfMemoryError error) {
            // As a failure like others: of an error ImageJ makes a note in its log, and a script goes on.
            throw new MdrException(
                    MdrException.INVALID_OPTION,
                    "the result does not fit into the " + (Runtime.getRuntime().maxMemory() >> 20)
                            + " MB of memory that Java may use; raise them in Edit > Options > Memory & Threads...,"
                            + " or open the image as a virtual stack",
                    error);
        }
    }

    private ImagePlus restored(MdrModel model, Progress progress) {
        long[] result = model.outputShape(AXES, shape, json);
        Map<String, Object> info = model.outputInfo(AXES, shape, json);
        int channels = (int) result[1];
        int depth = (int) result[2];
        int height = (int) result[3];
        int width = (int) result[4];
        PixelType type = PixelType.of(stack.getPixels(1));
        PixelType wanted = options.keep ? type : PixelType.F32;
        int planes = Math.toIntExact(result[0] * channels * depth);
        ImageStack restored;
        PlaneSink sink;
        if (stack.isVirtual()) {
            restored = new PlaneFile(width, height, planes, wanted);
            sink = (t, c, z, pixels) -> restored.setPixels(pixels, 1 + c + channels * (z + depth * t));
        } else {
            restored = new ImageStack(width, height);
            // Planes come in the order of ImageJ's stacks.
            sink = (t, c, z, pixels) -> restored.addSlice(null, pixels);
        }
        try {
            model.restorePlanes(this::plane, type, AXES, shape, json, progress, sink, wanted);
            ImagePlus image = dress(restored, channels, depth, (int) result[0], info);
            if (info.get("caution") != null) {
                IJ.log(image.getTitle() + ": " + info.get("caution"));
            }
            return image;
        } catch (RuntimeException | Error failure) {
            PlaneFile.close(restored);
            throw failure;
        }
    }

    /**
     * The plane that is shown as it will be in the result, in the type of the source.
     *
     * @param fitted statistics of the channel that is shown, from {@link #fit}
     */
    Object preview(MdrModel model, String fitted, Progress progress) {
        if (options.channel > 0 && options.channel != source.getC()) {
            throw MacroOptions.wrong("channel " + source.getC() + ", which is shown, is not restored");
        }
        long[] one = {1, shape[1], 1, shape[3], shape[4]};
        String settings = json.substring(0, json.length() - 1)
                + (json.length() > 2 ? "," : "")
                + (options.channel > 0 ? "" : "\"channel\":" + (source.getC() - 1) + ",")
                + "\"fitted\":" + fitted + "}";
        long[] result = model.outputShape(AXES, one, settings);
        if (result[3] != shape[3] || result[4] != shape[4]) {
            throw MacroOptions.wrong("this model changes the size of the image");
        }
        if ("ZYX".equals(model.facts().get("axes")) && shape[2] > 1) {
            throw MacroOptions.wrong("this model restores whole stacks");
        }
        PixelType type = PixelType.of(stack.getPixels(1));
        Object[] plane = new Object[1];
        int t = source.getT() - 1 - firstT;
        int z = source.getZ() - 1 - firstZ;
        PlaneSource shown = (ignoredT, c, ignoredZ) -> plane(t, c, z);
        model.restorePlanes(
                shown, type, AXES, one, settings, progress, (ot, oc, oz, pixels) -> plane[0] = pixels, type);
        return plane[0];
    }

    /** Statistics of the channel that is shown, over all planes that will be restored. */
    String fit(MdrModel model) {
        PixelType type = PixelType.of(stack.getPixels(1));
        PlaneSource interruptible = (t, c, z) -> {
            if (Thread.currentThread().isInterrupted()) {
                throw new MdrException(MdrException.CANCELLED, "cancelled");
            }
            return plane(t, c, z);
        };
        return model.fitPlanes(interruptible, type, AXES, shape, "{\"channel\":" + (source.getC() - 1) + "}");
    }

    private Object plane(int t, int c, int z) {
        return stack.getPixels(source.getStackIndex(c + 1, firstZ + z + 1, firstT + t + 1));
    }

    /** Gives the planes what belongs to them. */
    private ImagePlus dress(ImageStack restored, int channels, int depth, int frames, Map<String, Object> info) {
        boolean sameDepth = depth == shape[2];
        for (int n = 1; sameDepth && n <= restored.getSize(); n++) {
            int c = options.channel > 0 ? options.channel : 1 + (n - 1) % channels;
            int z = firstZ + 1 + (n - 1) / channels % depth;
            int t = firstT + 1 + (n - 1) / (channels * depth);
            restored.setSliceLabel(label(source.getStackIndex(c, z, t)), n);
        }
        ImagePlus imp = new ImagePlus(title(), restored);
        imp.setDimensions(channels, depth, frames);
        imp.setOpenAsHyperStack(source.isHyperStack() && restored.getSize() > 1);

        double scaleX = (double) imp.getWidth() / source.getWidth();
        double scaleY = (double) imp.getHeight() / source.getHeight();
        Calibration calibration = source.getCalibration().copy();
        calibration.pixelWidth /= scaleX;
        calibration.pixelHeight /= scaleY;
        calibration.xOrigin *= scaleX;
        calibration.yOrigin *= scaleY;
        double scaleZ = 1;
        if (!sameDepth || task.equals("axial")) {
            // The engine says the new step in µm; the ratio holds in any unit.
            Double step = (Double) info.get("z_step_um");
            scaleZ = step == null ? (double) depth / shape[2] : Units.voxelUm(source)[1] / step;
            calibration.pixelDepth /= scaleZ;
            calibration.zOrigin *= scaleZ;
        }
        if (!options.keep) {
            calibration.disableDensityCalibration();
        }
        imp.setCalibration(calibration);

        ImagePlus result = colour(imp);
        StringBuilder note = new StringBuilder();
        Object old = source.getProperty("Info");
        if (old instanceof String && !((String) old).isEmpty()) {
            note.append((String) old);
            if (note.charAt(note.length() - 1) != '\n') {
                note.append('\n');
            }
        }
        result.setProperty("Info", note.append(info.get("provenance")).append('\n').toString());
        annotate(result, scaleX, scaleY, scaleZ);
        return result;
    }

    private String label(int n) {
        String label = stack.getSliceLabel(n);
        // To an image that is no stack ImageJ gives a label that repeats its Info.
        boolean repeats = label != null && source.getStackSize() == 1 && label.endsWith("\n" + source.getProperty("Info"));
        return repeats ? null : label;
    }

    /** Lookup tables and display ranges; restored intensities are in the units of the source. */
    private ImagePlus colour(ImagePlus imp) {
        if (source.isComposite()) {
            CompositeImage from = (CompositeImage) source;
            if (imp.getNChannels() > 1) {
                CompositeImage composite = new CompositeImage(imp, from.getMode());
                composite.setLuts(from.getLuts());
                return composite;
            }
            LUT lut = from.getChannelLut(options.channel > 0 ? options.channel : 1);
            imp.setDisplayRange(lut.min, lut.max);
            imp.getProcessor().setColorModel(lut);
            imp.getStack().setColorModel(lut);
            return imp;
        }
        // The range first: without one, ImageJ looks for it in all the pixels.
        imp.setDisplayRange(source.getDisplayRangeMin(), source.getDisplayRangeMax());
        imp.getProcessor().setColorModel(source.getProcessor().getColorModel());
        imp.getStack().setColorModel(source.getProcessor().getColorModel());
        return imp;
    }

    private void annotate(ImagePlus result, double scaleX, double scaleY, double scaleZ) {
        Roi selection = source.getRoi();
        if (selection != null) {
            result.setRoi(scaled(selection, scaleX, scaleY));
        }
        Overlay overlay = source.getOverlay();
        if (overlay == null) {
            return;
        }
        Overlay copy = overlay.duplicate();
        for (int i = copy.size() - 1; i >= 0; i--) {
            Roi roi = scaled(copy.get(i), scaleX, scaleY);
            copy.set(roi, i);
            if (!place(roi, result, scaleZ)) {
                copy.remove(i);
            }
        }
        result.setOverlay(copy);
    }

    /** Binds a part of the overlay to the plane of the result that its own has become; false where there is none. */
    private boolean place(Roi roi, ImagePlus result, double scaleZ) {
        int n = roi.getPosition();
        boolean all = n <= 0 && !roi.hasHyperStackPosition();
        if (all || n > source.getStackSize()) {
            return all;
        }
        // 0: all of them.
        int[] at = n > 0
                ? source.convertIndexToPosition(n)
                : new int[] {roi.getCPosition(), roi.getZPosition(), roi.getTPosition()};
        int c = within(at[0], options.channel > 0 ? options.channel - 1 : 0, result.getNChannels());
        int z = within(at[1], firstZ, (int) shape[2]);
        int t = within(at[2], firstT, (int) shape[0]);
        if (c < 0 || z < 0 || t < 0) {
            return false;
        }
        z = z == 0 ? 0 : Math.min(1 + (int) Math.round((z - 1) * scaleZ), result.getNSlices());
        if (n > 0) {
            roi.setPosition(result.getStackIndex(c, z, t));
        } else {
            roi.setPosition(c, z, t);
        }
        return true;
    }

    /** Counts a position from a new start: 0 stays 0, -1 for what lies outside. */
    private static int within(int position, int start, int length) {
        int moved = position - start;
        return position == 0 ? 0 : moved > 0 && moved <= length ? moved : -1;
    }

    private static Roi scaled(Roi roi, double scaleX, double scaleY) {
        if (scaleX == 1 && scaleY == 1) {
            return (Roi) roi.clone();
        }
        Roi scaled = RoiScaler.scale(roi, scaleX, scaleY, false);
        scaled.copyAttributes(roi);
        if (roi.hasHyperStackPosition()) {
            scaled.setPosition(roi.getCPosition(), roi.getZPosition(), roi.getTPosition());
        } else {
            scaled.setPosition(roi.getPosition());
        }
        return scaled;
    }

    private String title() {
        String title = source.getTitle();
        int dot = title.lastIndexOf('.');
        int end = dot > 0 && title.length() - dot <= 5 ? dot : title.length();
        String restored = title.substring(0, end) + "-" + task + title.substring(end);
        // A macro finds the result by its title.
        return WindowManager.getImage(restored) == null ? restored : WindowManager.getUniqueName(restored);
    }
}
