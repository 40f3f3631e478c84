package org.mdr.fiji;

import ij.IJ;
import ij.ImagePlus;
import ij.Undo;
import ij.WindowManager;
import ij.gui.DialogListener;
import ij.gui.GenericDialog;
import ij.plugin.filter.ExtendedPlugInFilter;
import ij.plugin.filter.PlugInFilterRunner;
import ij.process.ImageProcessor;
import java.awt.AWTEvent;

/**
 * Plugins ▸ Restore ▸ Denoise…, Axial…, Super-resolve…: macro options or a dialog → {@link Restorer} → a new image.
 *
 * <p>It is a filter of ImageJ's for the sake of ImageJ's preview, which shows one restored plane in the image itself.
 * With macro options everything is done in {@link #setup}, before there is any AWT object, so that it runs without a
 * display.
 */
public class Restore_ implements ExtendedPlugInFilter, DialogListener {
    private static final int FLAGS = DOES_8G | DOES_8C | DOES_16 | DOES_32;

    private String task;
    private String command;
    private ImagePlus source;
    private RestoreOptions options = new RestoreOptions();
    /** Statistics for the preview, and what they were taken of. */
    private String fitted;
    private String fittedKey;
    /** The thread of the command; the preview has another one. */
    private Thread thread;

    /**
     * Restores the current image: for macros in plain ImageJ without a display, where {@code run} does not work.
     *
     * @param task denoise, axial or super-resolve
     * @param options as for the command, such as {@code "model=[built-in] tile=auto"}
     * @return the title of the result
     */
    public static String apply(String task, String options) {
        try {
            ImagePlus result = restore(WindowManager.getCurrentImage(), task, options);
            result.show();
            return result.getTitle();
        } catch (RuntimeException failure) {
            throw new Commands.Failed(command(task), failure);
        }
    }

    /** As {@link #apply(String, String)} for the task denoise. */
    public static String apply(String options) {
        return apply("denoise", options);
    }

    /** Restores an image, with the options of a macro call, and returns the result without showing it. */
    public static ImagePlus restore(ImagePlus source, String task, String options) {
        RestoreOptions parsed = RestoreOptions.parse(options);
        if (parsed.replace) {
            throw MacroOptions.wrong("replace: the result is returned here; leave replace out");
        }
        return restore(source, task, parsed, null);
    }

    /** Restores an image; {@code progress} may be null. */
    public static ImagePlus restore(ImagePlus source, String task, RestoreOptions options, Progress progress) {
        Restorer restorer = new Restorer(source, task, options);
        return OpenModels.with(options.model, task, model -> restorer.run(model, progress));
    }

    static String command(String task) {
        return Character.toUpperCase(task.charAt(0)) + task.substring(1) + "...";
    }

    @Override
    public int setup(String arg, ImagePlus imp) {
        task = arg;
        command = command(task);
        source = imp;
        thread = Thread.currentThread();
        String macro = Commands.macroOptions();
        try {
            Restorer.check(imp);
            if (macro == null) {
                return FLAGS;
            }
            options = RestoreOptions.parse(macro);
            // Of a filter that calls this command the lock is held already, in this thread.
            boolean held = imp.isLocked();
            if (!imp.lockSilently()) {
                throw new MdrException(
                        MdrException.INVALID_ARGUMENT,
                        "\"" + imp.getTitle() + "\" is locked: another command is working on it");
            }
            try {
                restoreAndShow();
            } finally {
                if (!held) {
                    imp.unlock();
                }
            }
        } catch (RuntimeException failure) {
            Commands.fail(command, macro == null, failure);
        }
        return DONE;
    }

    private void restoreAndShow() {
        if (options.replace && source.getStackSize() > 1) {
            throw MacroOptions.wrong("replace: \"" + source.getTitle() + "\" has " + source.getStackSize()
                    + " planes, and ImageJ cannot undo a change of a stack; leave replace out for a new window");
        }
        ImagePlus result = restore(source, task, options, new ImageJProgress(command));
        if (options.replace) {
            replace(result);
        } else {
            result.show();
        }
        IJ.showProgress(1.0);
    }

    /** Puts the result into the window of the source, so that Edit ▸ Undo takes it back. */
    private void replace(ImagePlus result) {
        boolean sameSize = result.getWidth() == source.getWidth() && result.getHeight() == source.getHeight();
        Undo.setup(sameSize ? Undo.TYPE_CONVERSION : Undo.TRANSFORM, source);
        source.setProcessor(null, result.getProcessor());
        source.setCalibration(result.getCalibration());
        source.setProperty("Info", result.getProperty("Info"));
        source.setOverlay(result.getOverlay());
        source.setRoi(result.getRoi());
        source.changes = true;
        source.updateAndDraw();
    }

    @Override
    public int showDialog(ImagePlus imp, String title, PlugInFilterRunner runner) {
        GenericDialog dialog = new GenericDialog(title);
        ModelField.add(dialog, options.model);
        if (severalPlanes()) {
            dialog.addChoice("Planes", RestoreOptions.Planes.labels(), options.planes.label);
        }
        if (imp.getNChannels() > 1) {
            String[] channels = new String[1 + imp.getNChannels()];
            channels[0] = "all";
            for (int c = 1; c < channels.length; c++) {
                channels[c] = String.valueOf(c);
            }
            dialog.addChoice("Channel", channels, channels[0]);
        }
        dialog.addStringField("Tile (pixels)", "auto", 6);
        dialog.addStringField("Overlap (pixels)", "auto", 6);
        dialog.addStringField("Memory (MB)", "auto", 6);
        dialog.addCheckbox("Ensemble (" + (task.equals("axial") ? 4 : 8) + " times as long)", false);
        dialog.addCheckbox("Keep source type", false);
        if (imp.getStackSize() == 1) {
            dialog.addCheckbox("Replace image", false);
        }
        if (!task.equals("axial")) {
            dialog.addPreviewCheckbox(runner);
        }
        dialog.addDialogListener(this);
        dialog.showDialog();
        return dialog.wasCanceled() ? DONE : FLAGS | NO_CHANGES;
    }

    private boolean severalPlanes() {
        return source.getStackSize() > source.getNChannels();
    }

    @Override
    public boolean dialogItemChanged(GenericDialog dialog, AWTEvent event) {
        try {
            // By way of the macro options that are being recorded, so that both mean the same.
            StringBuilder macro = new StringBuilder("model=[" + dialog.getNextString().trim() + "]");
            if (severalPlanes()) {
                macro.append(" planes=[").append(dialog.getNextChoice()).append(']');
            }
            if (source.getNChannels() > 1) {
                macro.append(" channel=").append(dialog.getNextChoice());
            }
            for (String key : new String[] {"tile", "overlap", "memory"}) {
                macro.append(' ').append(key).append("=[").append(dialog.getNextString().trim()).append(']');
            }
            macro.append(dialog.getNextBoolean() ? " ensemble" : "").append(dialog.getNextBoolean() ? " keep" : "");
            if (source.getStackSize() == 1) {
                macro.append(dialog.getNextBoolean() ? " replace" : "");
            }
            options = RestoreOptions.parse(macro.toString());
        } catch (MdrException wrong) {
            IJ.showStatus(wrong.getMessage());
            return false;
        }
        return true;
    }

    @Override
    public void run(ImageProcessor ip) {
        if (Thread.currentThread() != thread) {
            preview(ip);
            return;
        }
        try {
            restoreAndShow();
        } catch (RuntimeException failure) {
            Commands.fail(command, true, failure);
        }
    }

    /** Shows the restored plane in the image itself; ImageJ takes it back. */
    private void preview(ImageProcessor ip) {
        try {
            Restorer restorer = new Restorer(source, task, options);
            String key = options.model + source.getC() + options.planes + source.getZ() + " " + source.getT();
            Object pixels = OpenModels.with(options.model, task, model -> {
                if (!key.equals(fittedKey)) {
                    fitted = restorer.fit(model);
                    fittedKey = key;
                }
                return restorer.preview(model, fitted, new ImageJProgress("Preview"));
            });
            System.arraycopy(pixels, 0, ip.getPixels(), 0, ip.getPixelCount());
        } catch (RuntimeException failure) {
            if (!Commands.cancelled(failure)) {
                IJ.log("No preview: " + failure.getMessage());
            }
        }
    }

    @Override
    public void setNPasses(int passes) {}
}
