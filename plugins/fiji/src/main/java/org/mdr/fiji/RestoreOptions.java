package org.mdr.fiji;

import ij.ImagePlus;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** What the dialog asks and a macro says: macro options ⇄ fields → the engine's options. */
public final class RestoreOptions {
    /** Value of {@code model} for the model that needs no file. */
    public static final String BUILT_IN = "built-in";

    static final String[] KEYS = {
        "model", "planes", "channel", "tile", "overlap", "memory", "ensemble", "keep", "replace", "preview"
    };

    /** Which planes of T and Z are restored, and count for the normalisation. */
    public enum Planes {
        /** The whole image. */
        ALL("all"),
        /** The Z stack of the time point that is shown. */
        STACK("current stack"),
        /** The position in T and Z that is shown. */
        PLANE("current plane");

        final String label;

        Planes(String label) {
            this.label = label;
        }

        static String[] labels() {
            return java.util.Arrays.stream(values()).map(planes -> planes.label).toArray(String[]::new);
        }
    }

    /** {@link #BUILT_IN}, or the path of a model. */
    public String model = BUILT_IN;

    /** Which planes. */
    public Planes planes = Planes.ALL;

    /** Channel, from 1 as ImageJ counts; 0: all. */
    public int channel;

    /** Side of the tiles in pixels; 0: the engine chooses. */
    public int tile;

    /** Pixels that tiles share; -1: the engine chooses. */
    public int overlap = -1;

    /** Bound on the working memory in MB; 0: the engine's. */
    public int memory;

    /** Whether the result is the mean of those for the image flipped and turned, in as many times the time. */
    public boolean ensemble;

    /** Whether the result has the type of the source, rounded and clamped, instead of 32 bit. */
    public boolean keep;

    /** Whether the result takes the place of the source, with Undo, instead of a new window. */
    public boolean replace;

    /** Reads macro options strictly: what is unknown or malformed is an error. */
    public static RestoreOptions parse(String macro) {
        return of(MacroOptions.parse(macro, KEYS));
    }

    static RestoreOptions of(Map<String, String> macro) {
        RestoreOptions options = new RestoreOptions();
        macro.forEach(options::set);
        return options;
    }

    private void set(String key, String value) {
        switch (key) {
            case "model":
                model = value.isEmpty() ? need(key) : value;
                break;
            case "planes":
                planes = null;
                for (Planes known : Planes.values()) {
                    if (known.label.equals(value.toLowerCase(Locale.ROOT))) {
                        planes = known;
                    }
                }
                if (planes == null) {
                    throw MacroOptions.wrong(
                            "planes=[" + value + "]: expected " + String.join(", ", Planes.labels()));
                }
                break;
            case "channel":
                channel = number(key, value, "all", 0, 1, "a channel, from 1");
                break;
            case "tile":
                tile = number(key, value, "auto", 0, 1, "a number of pixels above 0");
                break;
            case "overlap":
                overlap = number(key, value, "auto", -1, 0, "a number of pixels");
                break;
            case "memory":
                memory = number(key, value, "auto", 0, 1, "a number of MB above 0");
                break;
            case "ensemble":
                ensemble = flag(key, value);
                break;
            case "keep":
                keep = flag(key, value);
                break;
            case "replace":
                replace = flag(key, value);
                break;
            default:
                // The preview is for the dialog.
                flag(key, value);
        }
    }

    private static String need(String key) {
        throw MacroOptions.wrong("option " + key + " has no value");
    }

    static boolean flag(String key, String value) {
        if (!value.isEmpty()) {
            throw MacroOptions.wrong(key + "=" + value + ": " + key + " takes no value; leave it out to say no");
        }
        return true;
    }

    static int number(String key, String value, String word, int ofWord, int least, String expected) {
        if (value.toLowerCase(Locale.ROOT).equals(word)) {
            return ofWord;
        }
        try {
            int number = Integer.parseInt(value);
            if (number >= least) {
                return number;
            }
        } catch (NumberFormatException error) {
            // Said below.
        }
        throw MacroOptions.wrong(key + "=" + value + ": expected " + word + " or " + expected);
    }

    /** The engine's options for an image. */
    String json(String task, ImagePlus imp) {
        List<String> json = new ArrayList<>();
        if (!model.equals(BUILT_IN)) {
            json.add("\"task\":" + Json.quote(task));
        }
        if (channel > 0) {
            json.add("\"channel\":" + (channel - 1));
        }
        if (tile > 0) {
            json.add("\"tile\":" + tile);
        }
        if (overlap >= 0) {
            json.add("\"overlap\":" + overlap);
        }
        if (memory > 0) {
            json.add("\"memory_limit_mb\":" + memory);
        }
        if (ensemble) {
            json.add("\"self_ensemble\":true");
        }
        if (task.equals("axial")) {
            double[] size = Units.voxelUm(imp);
            json.add("\"pixel_size_um\":" + size[0]);
            json.add("\"z_step_um\":" + size[1]);
        }
        return "{" + String.join(",", json) + "}";
    }
}
