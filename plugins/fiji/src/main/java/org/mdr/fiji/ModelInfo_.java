package org.mdr.fiji;

import ij.IJ;
import ij.gui.GenericDialog;
import ij.plugin.PlugIn;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** Plugins ▸ Restore ▸ Model Info…: what a model is, line by line into the Log window; for macros also as text. */
public class ModelInfo_ implements PlugIn {
    private static final String COMMAND = "Model Info...";

    /**
     * What a model is: its task, training, normalisation, field, licence.
     *
     * @param options {@code model=} with a path, or the task of a built-in model; without it, all built-in models
     */
    public static String apply(String options) {
        try {
            return describe(MacroOptions.parse(options, "model").getOrDefault("model", RestoreOptions.BUILT_IN));
        } catch (RuntimeException failure) {
            throw new Commands.Failed(COMMAND, failure);
        }
    }

    @Override
    public void run(String arg) {
        String macro = Commands.macroOptions();
        try {
            if (macro == null) {
                GenericDialog dialog = new GenericDialog(COMMAND);
                ModelField.add(dialog, RestoreOptions.BUILT_IN);
                dialog.showDialog();
                if (dialog.wasCanceled()) {
                    return;
                }
                IJ.log(describe(dialog.getNextString().trim()));
            } else {
                IJ.log(describe(MacroOptions.parse(macro, "model").getOrDefault("model", RestoreOptions.BUILT_IN)));
            }
        } catch (RuntimeException failure) {
            Commands.fail(COMMAND, macro == null, failure);
        }
    }

    private static String describe(String name) {
        StringBuilder text = new StringBuilder("libmdr " + MdrModel.version() + "\n");
        boolean found = false;
        for (Map<String, Object> facts : MdrModel.builtInModels()) {
            if (name.equals(RestoreOptions.BUILT_IN) || name.equals(facts.get("task"))) {
                list(text, facts);
                found = true;
            }
        }
        if (found) {
            return text.toString();
        }
        try (MdrModel model = MdrModel.load(name)) {
            list(text, model.facts());
        }
        return text.toString();
    }

    private static void list(StringBuilder text, Map<String, Object> facts) {
        text.append('\n');
        facts.forEach((key, value) -> {
            // Metrics follow in words, where they can.
            boolean said = key.equals("metrics") && facts.get("scores") != null;
            if (value != null && !value.equals("") && !said) {
                text.append(key.replace('_', ' ')).append(": ").append(shown(value)).append('\n');
            }
        });
    }

    /** JSON's values for people: whole numbers without a point, what belongs together in one line. */
    private static String shown(Object value) {
        if (value instanceof Map) {
            return ((Map<?, ?>) value).entrySet().stream()
                    .map(entry -> entry.getKey() + " " + shown(entry.getValue()))
                    .collect(Collectors.joining(", "));
        }
        if (value instanceof List) {
            return ((List<?>) value).stream().map(ModelInfo_::shown).collect(Collectors.joining(", "));
        }
        return value instanceof Double ? value.toString().replaceAll("\\.0$", "") : value.toString();
    }
}
