# tries: to overflow the checker's stack with an answer that holds itself
# verdict: error
# error: RecursionError
def double(x):
    answer = []
    answer.append(answer)
    return answer
