package org.mdr.fiji;

import ij.IJ;
import ij.ImagePlus;
import ij.gui.GenericDialog;
import ij.io.FileInfo;
import ij.io.FileSaver;
import ij.io.Opener;
import ij.io.TiffDecoder;
import ij.plugin.PlugIn;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * Plugins ▸ Restore ▸ Restore Folder…: every TIFF file of a folder (or one file) → a restored TIFF file of the same name
 * in another folder. The good files are done, the others are listed at the end. A large file is opened as a virtual
 * stack.
 */
public class RestoreFolder_ implements PlugIn {
    private static final String COMMAND = "Restore Folder...";
    private static final String[] TASKS = {"denoise", "axial", "super-resolve"};
    private static final String[] KEYS = {
        "input", "output", "task", "model", "channel", "tile", "overlap", "memory", "ensemble", "keep",
        "overwrite", "skip"
    };

    private File input;
    private File output;
    private String task = TASKS[0];
    private boolean overwrite;
    private boolean skip;
    private RestoreOptions options;

    /**
     * Restores a folder or a file: also for macros in plain ImageJ without a display, where {@code run} does not work.
     *
     * @param options as for the command: {@code input= output=} and more
     * @return how many files were restored
     */
    public static String apply(String options) {
        try {
            return String.valueOf(new RestoreFolder_().read(options).restore(null));
        } catch (RuntimeException failure) {
            throw new Commands.Failed(COMMAND, failure);
        }
    }

    @Override
    public void run(String arg) {
        String macro = Commands.macroOptions();
        try {
            if (macro == null) {
                macro = ask();
                if (macro == null) {
                    return;
                }
            }
            read(macro).restore(new ImageJProgress(COMMAND));
        } catch (RuntimeException failure) {
            Commands.fail(COMMAND, Commands.macroOptions() == null, failure);
        }
    }

    /** Shows the dialog, whose fields ImageJ records; what they say as macro options, or null if cancelled. */
    private static String ask() {
        GenericDialog dialog = new GenericDialog(COMMAND);
        dialog.addDirectoryField("Input", "");
        dialog.addDirectoryField("Output", "");
        dialog.addChoice("Task", TASKS, TASKS[0]);
        ModelField.add(dialog, RestoreOptions.BUILT_IN);
        dialog.addStringField("Channel", "all", 6);
        dialog.addStringField("Tile (pixels)", "auto", 6);
        dialog.addStringField("Overlap (pixels)", "auto", 6);
        dialog.addStringField("Memory (MB)", "auto", 6);
        String[] flags = {"ensemble", "keep", "overwrite", "skip"};
        dialog.addCheckbox("Ensemble (4 or 8 times as long)", false);
        dialog.addCheckbox("Keep source type", false);
        dialog.addCheckbox("Overwrite files", false);
        dialog.addCheckbox("Skip finished files", false);
        dialog.showDialog();
        if (dialog.wasCanceled()) {
            return null;
        }
        StringBuilder macro = new StringBuilder();
        for (String key : new String[] {"input", "output"}) {
            macro.append(key).append("=[").append(dialog.getNextString().trim()).append("] ");
        }
        macro.append("task=").append(dialog.getNextChoice());
        for (String key : new String[] {"model", "channel", "tile", "overlap", "memory"}) {
            macro.append(' ').append(key).append("=[").append(dialog.getNextString().trim()).append(']');
        }
        for (String flag : flags) {
            macro.append(dialog.getNextBoolean() ? " " + flag : "");
        }
        return macro.toString();
    }

    private RestoreFolder_ read(String macro) {
        Map<String, String> given = MacroOptions.parse(macro, KEYS);
        input = file(given.remove("input"), "input");
        output = file(given.remove("output"), "output");
        String asked = given.remove("task");
        task = asked == null ? task : asked.toLowerCase(Locale.ROOT);
        if (!Arrays.asList(TASKS).contains(task)) {
            throw MacroOptions.wrong("task=" + asked + ": expected " + String.join(", ", TASKS));
        }
        overwrite = flag(given, "overwrite");
        skip = flag(given, "skip");
        if (overwrite && skip) {
            throw MacroOptions.wrong("overwrite and skip: expected one of them");
        }
        options = RestoreOptions.of(given);
        return this;
    }

    private static boolean flag(Map<String, String> given, String key) {
        String value = given.remove(key);
        return value != null && RestoreOptions.flag(key, value);
    }

    private static File file(String path, String key) {
        if (path == null || path.isEmpty()) {
            throw MacroOptions.wrong(key + " is missing: expected " + key + "=[path of a folder]");
        }
        return new File(path);
    }

    private int restore(ImageJProgress progress) {
        File[] found = input.isFile() ? new File[] {input} : input.listFiles(RestoreFolder_::isTiff);
        if (found == null) {
            throw new MdrException(MdrException.IO, input + ": no such folder");
        }
        if (input.isFile() && !isTiff(input)) {
            throw new MdrException(MdrException.IO, input + ": no .tif or .tiff file");
        }
        if (found.length == 0) {
            throw new MdrException(MdrException.IO, input + ": no .tif or .tiff file in this folder");
        }
        Arrays.sort(found);
        File[] files = Arrays.stream(found).filter(file -> !skip || !Files.exists(target(file))).toArray(File[]::new);
        try {
            Files.createDirectories(output.toPath());
            if (Files.isSameFile(output.toPath(), input.isFile() ? folder(input) : input.toPath())) {
                throw MacroOptions.wrong("output is the folder of the input; choose another one");
            }
        } catch (IOException error) {
            throw new MdrException(MdrException.IO, output + ": cannot be made into a folder: " + error, error);
        }
        List<String> failed = OpenModels.with(options.model, task, model -> restore(model, files, progress));
        IJ.showProgress(1.0);
        if (!failed.isEmpty()) {
            throw new MdrException(
                    MdrException.IO,
                    failed.size() + " of " + files.length + " files could not be restored:\n"
                            + String.join("\n", failed));
        }
        return files.length;
    }

    /** Restores files one by one; what went wrong with which. */
    private List<String> restore(MdrModel model, File[] files, ImageJProgress progress) {
        List<String> failed = new ArrayList<>();
        for (int i = 0; i < files.length; i++) {
            String what = files[i].getName() + " (" + (i + 1) + " of " + files.length + ")";
            if (progress != null) {
                progress.next(what);
            }
            try {
                restore(model, files[i], progress);
            } catch (RuntimeException failure) {
                if (Commands.cancelled(failure)) {
                    throw failure;
                }
                failed.add(files[i].getName() + ": " + Commands.message(failure));
            } catch (OutOfMemoryError error) {
                failed.add(files[i].getName() + ": is too large for the memory that Java may use");
            } finally {
                IJ.redirectErrorMessages(false);
            }
        }
        return failed;
    }

    private Path target(File file) {
        return output.toPath().resolve(file.getName());
    }

    private void restore(MdrModel model, File file, Progress progress) {
        Path target = target(file);
        if (Files.exists(target) && !overwrite) {
            throw new MdrException(MdrException.IO, target + " exists; add overwrite to replace it, or skip");
        }
        ImagePlus restored = new Restorer(open(file), task, options).run(model, progress);
        try {
            // Not by createTempFile, whose files nobody else may read.
            Path part = output.toPath().resolve("." + System.nanoTime() + "-" + file.getName());
            try {
                IJ.redirectErrorMessages();
                if (!new FileSaver(restored).saveAsTiff(part.toString())) {
                    throw new MdrException(MdrException.IO, target + ": ImageJ could not write it; see the log");
                }
                Files.move(part, target, StandardCopyOption.REPLACE_EXISTING);
            } finally {
                Files.deleteIfExists(part);
            }
        } catch (IOException error) {
            throw new MdrException(MdrException.IO, target + ": " + error, error);
        } finally {
            PlaneFile.close(restored.getStack());
        }
    }

    /** Opens a file, as a virtual stack if the result as 32 bit would take much of Java's memory. */
    private static ImagePlus open(File file) {
        check(file);
        int planes = 1;
        boolean large = false;
        String why = "ImageJ cannot open it";
        ImagePlus source;
        try {
            try {
                FileInfo[] info = new TiffDecoder(folder(file) + File.separator, file.getName()).getTiffInfo();
                if (info != null && info.length > 0) {
                    planes = Math.max(info.length, info[0].nImages);
                    long bytes = (long) planes * info[0].width * info[0].height * Float.BYTES;
                    large = planes > 1 && bytes > Runtime.getRuntime().maxMemory() / 4;
                }
            } catch (IOException error) {
                // In Fiji there are others that may.
                why += ": " + error.getMessage();
            }
            // ImageJ would show dialogs: the first error is redirected, those that may follow are silent.
            IJ.redirectErrorMessages();
            Opener opener = new Opener();
            opener.setSilentMode(true);
            source = large ? IJ.openVirtual(file.getPath()) : opener.openImage(file.getPath());
        } catch (RuntimeException failure) {
            throw new MdrException(MdrException.IO, why + ": " + failure, failure);
        }
        if (source == null) {
            throw new MdrException(MdrException.IO, why);
        }
        // Of a file that is cut off, or whose planes differ, ImageJ opens the beginning.
        if (source.getStackSize() < planes) {
            throw new MdrException(
                    MdrException.IO, "ImageJ can open " + source.getStackSize() + " of its " + planes + " planes");
        }
        return source;
    }

    /** ImageJ takes much of what is cut off or damaged for a whole file, and reads some of it for ever. */
    private static void check(File file) {
        try {
            MdrNative.checkTiff(file.getPath());
        } catch (MdrException failure) {
            // The file has been named already.
            String message = failure.getMessage().replace(file.getPath() + ": ", "");
            throw new MdrException(failure.status(), message, failure);
        }
    }

    private static Path folder(File file) {
        return Paths.get(file.getAbsolutePath()).getParent();
    }

    private static boolean isTiff(File file) {
        String name = file.getName().toLowerCase(Locale.ROOT);
        return file.isFile() && !name.startsWith(".") && (name.endsWith(".tif") || name.endsWith(".tiff"));
    }
}
