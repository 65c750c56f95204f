# tries: to run bytecode that no compiler makes: a constant far outside of its table
# verdict: killed
def double(x):
    load_constant = bytes([144, 127, 144, 255, 144, 255, 100, 255])  # EXTENDED_ARG three times, LOAD_CONST
    return eval(compile("0", "", "eval").replace(co_code=load_constant + bytes([83, 0])))
