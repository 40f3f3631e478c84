package org.mdr.fiji;

import ij.macro.Interpreter;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * The options of a macro call, such as {@code model=[/my models/a.onnx] tile=256 keep} → keys and values. ImageJ's own
 * reading takes what it knows and ignores the rest, so that a mistyped key silently means the default; here it is an
 * error.
 */
final class MacroOptions {
    private final String text;
    private int at;

    private MacroOptions(String text) {
        this.text = text;
    }

    /** Keys in lower case with their values; of a key without a value the empty text. */
    static Map<String, String> parse(String text, String... known) {
        return new MacroOptions(text == null ? "" : text).parse(Arrays.asList(known));
    }

    private Map<String, String> parse(List<String> known) {
        Map<String, String> options = new LinkedHashMap<>();
        while (true) {
            while (at < text.length() && Character.isWhitespace(text.charAt(at))) {
                at++;
            }
            if (at == text.length()) {
                return options;
            }
            int start = at;
            while (at < text.length() && text.charAt(at) != '=' && !Character.isWhitespace(text.charAt(at))) {
                at++;
            }
            String key = text.substring(start, at).toLowerCase(Locale.ROOT);
            if (!known.contains(key)) {
                throw wrong("unknown option \"" + key + "\": expected one of " + String.join(", ", known));
            }
            String value = "";
            if (at < text.length() && text.charAt(at) == '=') {
                at++;
                value = variable(value());
                if (value.isEmpty()) {
                    throw wrong("option " + key + " has no value");
                }
            }
            if (options.put(key, value) != null) {
                throw wrong("option " + key + " is given twice");
            }
        }
    }

    private String value() {
        if (at < text.length() && text.charAt(at) == '[') {
            int depth = 0;
            for (int start = at; at < text.length(); at++) {
                char c = text.charAt(at);
                depth += c == '[' ? 1 : c == ']' ? -1 : 0;
                if (depth == 0) {
                    return text.substring(start + 1, at++);
                }
            }
            throw wrong("options \"" + text.trim() + "\": a \"]\" is missing");
        }
        if (at < text.length() && text.charAt(at) == '\'') {
            int end = text.indexOf('\'', at + 1);
            if (end < 0) {
                throw wrong("options \"" + text.trim() + "\": a \"'\" is missing");
            }
            String value = text.substring(at + 1, end);
            at = end + 1;
            return value;
        }
        int start = at;
        while (at < text.length() && !Character.isWhitespace(text.charAt(at))) {
            at++;
        }
        return text.substring(start, at);
    }

    /** The macro variable that {@code &name} stands for, as in ImageJ's own commands. */
    private static String variable(String value) {
        Interpreter interpreter = Interpreter.getInstance();
        if (!value.startsWith("&") || interpreter == null) {
            return value;
        }
        String name = value.substring(1);
        String content = interpreter.getStringVariable(name);
        if (content != null) {
            return content;
        }
        String number = interpreter.getVariableAsString(name);
        if (number == null) {
            throw wrong("the macro has no variable " + name);
        }
        // Numbers come as doubles.
        return number.endsWith(".0") ? number.substring(0, number.length() - 2) : number;
    }

    static MdrException wrong(String message) {
        return new MdrException(MdrException.INVALID_OPTION, message);
    }
}
