# Shared by the scripts beside it; to be sourced. Needs nothing but bash.

# Spark 4.0 is built for Java 17. From 24 on, Java lacks the security manager that the Hadoop 3.4.1
# inside Spark asks for on its first file access.
JAVA_OLDEST=17
JAVA_NEWEST=23

# Print the java that Spark would start: like spark-class, JAVA_HOME before PATH.
java_binary() {
    if [ -n "${JAVA_HOME:-}" ]; then
        echo "$JAVA_HOME/bin/java"
    else
        command -v java
    fi
}

# Print what is wrong with Java in a few words, or nothing where all is well.
java_problem() {
    local java version major
    java="$(java_binary)" || { echo "no Java found (Spark needs Java $JAVA_OLDEST)"; return; }
    if [ ! -x "$java" ]; then
        echo "JAVA_HOME is $JAVA_HOME, which has no bin/java (Spark needs Java $JAVA_OLDEST)"
        return
    fi
    # The first line with a quoted version: JAVA_TOOL_OPTIONS makes java print another line above it.
    version="$("$java" -version 2>&1)" || { echo "$java does not start"; return; }
    [[ "$version" =~ version\ \"([0-9]+)(\.([0-9]+))? ]] || { echo "$java does not tell its version"; return; }
    major="${BASH_REMATCH[1]}"
    # Java 8 called itself 1.8.
    if [ "$major" = 1 ]; then major="${BASH_REMATCH[3]}"; fi
    if [ "$major" -lt "$JAVA_OLDEST" ]; then
        echo "$java is Java $major, too old (Spark needs Java $JAVA_OLDEST)"
    elif [ "$major" -gt "$JAVA_NEWEST" ]; then
        echo "$java is Java $major, too new (Spark 4.0 needs Java $JAVA_OLDEST to $JAVA_NEWEST)"
    fi
}

# True when something listens on this port of the loopback interface.
port_in_use() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}
