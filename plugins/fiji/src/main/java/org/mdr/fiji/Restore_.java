package org.mdr.fiji;

import ij.IJ;
import ij.ImagePlus;
import ij.WindowManager;
import ij.gui.DialogListener;
import ij.gui.GenericDialog;
import ij.io.OpenDialog;
import ij.plugin.filter.ExtendedPlugInFilter;
import ij.plugin.filter.PlugInFilterRunner;
import ij.process.ImageProcessor;
import java.awt.AWTEvent;
import java.awt.Button;
import java.awt.FlowLayout;
import java.awt.Panel;
import java.awt.TextField;

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
    private TextField modelField;
    private boolean previewable;
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
        ImagePlus result = restore(WindowManager.getCurrentImage(), task, options);
        result.show();
        return result.getTitle();
    }

    /** As {@link #apply(String, String)} for the task denoise. */
    public static String apply(String options) {
        return apply("denoise", options);
    }

    /** Restores an image, with the options of a macro call, and returns the result without showing it. */
    public static ImagePlus restore(ImagePlus source, String task, String options) {
        return restore(source, task, RestoreOptions.parse(options), null);
    }

    /** Restores an image; {@code progress} may be null. */
    public static ImagePlus restore(ImagePlus source, String task, RestoreOptions options, Progress progress) {
        Restorer restorer = new Restorer(source, task, options);
        try (MdrModel model = options.open(task)) {
            return restorer.run(model, progress);
        }
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
            if (!imp.lockSilently()) {
                throw new MdrException(
                        MdrException.INVALID_ARGUMENT,
                        "\"" + imp.getTitle() + "\" is locked: another command is working on it");
            }
            try {
                restoreAndShow();
            } finally {
                imp.unlock();
            }
        } catch (RuntimeException failure) {
            Commands.fail(command, macro == null, failure);
        }
        return DONE;
    }

    private void restoreAndShow() {
        ImagePlus result = restore(source, task, options, new ImageJProgress(command));
        result.show();
        IJ.showProgress(1.0);
    }

    @Override
    public int showDialog(ImagePlus imp, String title, PlugInFilterRunner runner) {
        GenericDialog dialog = new GenericDialog(title);
        dialog.addStringField("Model", options.model, 28);
        modelField = (TextField) dialog.getStringFields().lastElement();
        Button browse = new Button("Browse...");
        browse.addActionListener(event -> {
            OpenDialog open = new OpenDialog("Model: .onnx, .zip or rdf.yaml");
            if (open.getPath() != null) {
                modelField.setText(open.getPath());
            }
        });
        Panel panel = new Panel(new FlowLayout(FlowLayout.RIGHT, 0, 0));
        panel.add(browse);
        dialog.addPanel(panel);
        if (imp.getStackSize() > imp.getNChannels()) {
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
        dialog.addCheckbox("Keep source type", false);
        if (imp.getStackSize() == 1) {
            dialog.addCheckbox("Replace image", false);
        }
        previewable = !task.equals("axial");
        if (previewable) {
            dialog.addPreviewCheckbox(runner);
        }
        dialog.addDialogListener(this);
        dialog.showDialog();
        return dialog.wasCanceled() ? DONE : FLAGS | NO_CHANGES;
    }

    @Override
    public boolean dialogItemChanged(GenericDialog dialog, AWTEvent event) {
        RestoreOptions read = new RestoreOptions();
        try {
            StringBuilder macro = new StringBuilder("model=[" + dialog.getNextString() + "]");
            if (source.getStackSize() > source.getNChannels()) {
                macro.append(" planes=[").append(dialog.getNextChoice()).append(']');
            }
            if (source.getNChannels() > 1) {
                macro.append(" channel=").append(dialog.getNextChoice());
            }
            for (String key : new String[] {"tile", "overlap", "memory"}) {
                macro.append(' ').append(key).append("=[").append(dialog.getNextString().trim()).append(']');
            }
            macro.append(dialog.getNextBoolean() ? " keep" : "");
            if (source.getStackSize() == 1) {
                macro.append(dialog.getNextBoolean() ? " replace" : "");
            }
            read = RestoreOptions.parse(macro.toString());
        } catch (MdrException wrong) {
            IJ.showStatus(wrong.getMessage());
            return false;
        }
        options = read;
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

    private void preview(ImageProcessor ip) {
    }

    @Override
    public void setNPasses(int passes) {}
}
