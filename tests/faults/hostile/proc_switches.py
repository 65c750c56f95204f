# tries: to change the kernel's settings
# verdict: failed
# prints: refused
def double(x):
    for path in ("sys/kernel/core_pattern", "sys/vm/overcommit_memory", "sysrq-trigger", "1/oom_score_adj", "self/uid_map"):
        try:
            with open(f"/proc/{path}", "w") as file:
                file.write("1")
            print("ESCAPED", path)
        except OSError as error:
            print("refused:", error)
